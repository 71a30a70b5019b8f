"""Hybrid models: from a preset, a pattern or a checkpoint to a model that isolates documents."""

import copy
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, NemotronHConfig, PreTrainedConfig, PreTrainedModel
from transformers import NemotronHForCausalLM as Hybrid

from model.checkpoint import check_files, check_loading, reading
from model.layers.install import install
from model.presets import DTYPES, EXPERT_SIZES, HybridShape, shape
from workbench.errors import UserError

_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, name) for name in DTYPES}


def build_config(preset: str | HybridShape | None = None, **fields: Any) -> NemotronHConfig:
    """transformers' configuration of a hybrid.

    ``build_config("nano2-9b")``, ``build_config("miniature", vocab_size=1024)``, or every field
    by hand: ``build_config(pattern="M-M-*-", hidden_size=128, ...)``. Fields: those of
    `model.presets.HybridShape`. Errors: UserError for names or sizes that do not fit.
    """
    s = preset if isinstance(preset, HybridShape) else shape(preset, **fields)
    return NemotronHConfig(
        layers_block_type=s.layer_kinds,
        hidden_size=s.hidden_size,
        intermediate_size=s.intermediate_size,
        mamba_num_heads=s.mamba_num_heads,
        mamba_head_dim=s.mamba_head_dim,
        n_groups=s.n_groups,
        ssm_state_size=s.ssm_state_size,
        conv_kernel=s.conv_kernel,
        chunk_size=s.chunk_size,
        num_attention_heads=s.num_attention_heads,
        num_key_value_heads=s.num_key_value_heads,
        head_dim=s.head_dim,
        vocab_size=s.vocab_size,
        max_position_embeddings=s.max_position_embeddings,
        initializer_range=s.initializer_range,
        layer_norm_epsilon=s.layer_norm_epsilon,
        pad_token_id=s.pad_token_id,
        bos_token_id=s.bos_token_id,
        eos_token_id=s.eos_token_id,
        dtype=s.dtype,
        **(_experts(s) if "E" in s.pattern else {}),
        architectures=["NemotronHForCausalLM"],
    )


def _experts(s: HybridShape) -> dict[str, Any]:
    return {name: getattr(s, name) for name in (*EXPERT_SIZES, "routed_scaling_factor")}


def load_model(
    path_or_config: str | Path | PreTrainedConfig,
    dtype: str = "float32",
    device: str = "cpu",
    seed: int | None = None,
) -> Hybrid:
    """A model that isolates documents when called with seq_idx [B, T] (see model.layers).

    A configuration gives a new model, initialised from `seed` without touching torch's global
    random state (from that state if None); a path or hub id gives that checkpoint, hybrid or not.
    Errors: UserError for an unknown dtype, a checkpoint that is cut short, or one whose tensors
    are missing, unexpected or of a shape different from its configuration's.
    """
    if dtype not in _DTYPES:
        raise UserError(f"dtype {dtype!r} is not known; allowed: {', '.join(_DTYPES)}")
    if isinstance(path_or_config, PreTrainedConfig):
        model = narrowed(_new_model(path_or_config, seed), dtype)
    else:
        model = _read_model(path_or_config, _DTYPES[dtype])
    model = model.to(device=device)
    model.config.dtype = dtype
    return install(model)


def narrowed(model: PreTrainedModel, dtype: str) -> PreTrainedModel:
    """The model with its parameters in this type, in place. Buffers stay as they are: the frequencies of rotary
    positions lose their meaning in bf16, a token of 2,048 places off by a quarter turn."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(_DTYPES[dtype])
    return model


def _new_model(config: PreTrainedConfig, seed: int | None) -> PreTrainedModel:
    # `install` changes the model's configuration: another model of the same would differ.
    config = copy.deepcopy(config)
    if seed is None:
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32)


def _read_model(path: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    # Not the type that config.json names, which may be narrower than a tensor in the file.
    check_files(path)
    with reading(path):
        # No code of the checkpoint's own: transformers would ask at the terminal whether to run it.
        model, report = AutoModelForCausalLM.from_pretrained(
            path, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True,
            trust_remote_code=False,
        )  # fmt: skip
        make_savable(model)
    check_loading(path, report)
    return model


def make_savable(model: PreTrainedModel) -> None:
    """Released checkpoints may give a temperature without `do_sample`, which transformers reads and
    then refuses to write, after the training. Raises: what is wrong with other settings."""
    config = model.generation_config
    if config is None:
        return
    try:
        config.validate(strict=True)
    except ValueError:
        config.do_sample = True
        config.validate(strict=True)
    for name in ("temperature", "top_p", "top_k"):
        if isinstance(value := getattr(config, name, None), str | list | dict):
            raise TypeError(f"generation_config.json: {name} is {value!r}, no number")


def save_model(
    model: PreTrainedModel,
    path: str | Path,
    tokenizer: Any = None,
    weights: dict[str, torch.Tensor] | None = None,
) -> Path:
    """Write a plain Hugging Face checkpoint, which appears complete or not at all.

    It loads with AutoModelForCausalLM and vLLM without this code. An existing directory of that
    name is replaced. `weights` are the model's tensors where it holds only a share of them (ZeRO-3).
    """
    with appearing(Path(path)) as fresh:
        model.save_pretrained(fresh, state_dict=weights)
        portable(fresh / "config.json")
        if tokenizer is not None:
            tokenizer.save_pretrained(fresh)
    return Path(path)


@contextmanager
def appearing(target: Path) -> Iterator[Path]:
    """A folder to fill, which takes the name `target` once it is full and is gone where it fails."""
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = target.with_name(f".{target.name}.writing-{os.getpid()}")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        yield fresh
    except BaseException:
        shutil.rmtree(fresh, ignore_errors=True)  # on a full disk the half would stay in the way
        raise
    old = target.with_name(f".{target.name}.replaced-{os.getpid()}")
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def portable(config_path: Path) -> None:
    """Take our attention's name out of a saved configuration."""
    config = json.loads(config_path.read_text())
    config.pop("_attn_implementation", None)
    config.pop("attn_implementation", None)
    config_path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
