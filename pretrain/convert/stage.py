"""Stage kind `convert`: a GGUF file or a checkpoint in, the run's base model out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from model.hybrid import load_model, narrowed, save_model
from model.tokenizer import read_tokenizer
from pretrain.convert.config import CheckpointSource, ConvertConfig, GgufSource
from pretrain.convert.gguf_file import GgufFile, locate
from pretrain.convert.llama import llama_config, state_dict
from workbench.errors import UserError
from workbench.hub import fetched
from workbench.stage import StageContext


def run(context: StageContext) -> None:
    """Convert and save."""
    config: ConvertConfig = context.config
    source = config.source
    context.progress(message=f"reading {source.type}")
    if isinstance(source, GgufSource):
        path = locate(source)
        model, about = read_gguf(path)
        tokenizer = gguf_tokenizer(path)
        context.keep(source={"file": path.name, **about})
    else:
        folder = Path(source.path)
        if not folder.is_dir():
            folder = _downloaded(source)
        model = load_model(folder)
        tokenizer = read_tokenizer(folder)
        context.keep(source={"checkpoint": source.path})
    _fit_tokenizer(tokenizer, model)
    narrowed(model, config.dtype)
    model.config.dtype = config.dtype
    context.keep(parameters=sum(p.numel() for p in model.parameters()))
    save_model(model, context.stage_dir / "model", tokenizer)


def _downloaded(source: CheckpointSource) -> Path:
    """The folder of a checkpoint of the hub: weights and tokenizer of one commit."""
    if Path(source.path).exists() or source.path.count("/") != 1 or source.path[0] in "./~":
        raise UserError(f"no model at {source.path}: give a checkpoint folder or a hub id ORG/NAME")
    return fetched(source.path, source.revision)


def read_gguf(path: Path) -> tuple[LlamaForCausalLM, dict[str, Any]]:
    """The model of a GGUF file in fp32, and what the file says of itself.

    Raises: UserError where the file is damaged, not a Llama, or leaves a tensor unaccounted for.
    """
    file = GgufFile(path)
    tensors = dict(file.tensors())
    config = llama_config(file.fields, tied="output.weight" not in tensors)
    weights = {n: torch.tensor(w) for n, w in state_dict(tensors, config).items()}
    model = LlamaForCausalLM(config)
    _must_have_sizes(weights, model, path.name)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    missing = [n for n in missing if not (config.tie_word_embeddings and n == "lm_head.weight")]
    if missing or unexpected:
        raise UserError(
            f"{path.name}: tensors missing {missing[:5]}, unknown {unexpected[:5]}; the file does "
            "not match its own fields"
        )
    ids = {k: getattr(config, k) for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig(**ids)
    about = {"name": file.fields.get("general.name"), "tensor_types": file.tensor_types()}
    return model, about


def _must_have_sizes(
    weights: Mapping[str, torch.Tensor], model: LlamaForCausalLM, name: str
) -> None:
    sizes = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    for key, tensor in weights.items():
        given = tuple(tensor.shape)
        if given != sizes.get(key, given):
            raise UserError(
                f"{name}: {key} is {given}, where its fields ask for {sizes[key]}; the file does not match "
                "its own fields"
            )


def gguf_tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The file's tokenizer and chat template, by transformers' own reader."""
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def _fit_tokenizer(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> None:
    """Give the tokenizer the model's length: a GGUF leaves it at 1e30, and nothing would warn."""
    longest = getattr(model.config, "max_position_embeddings", None)
    if longest is not None:
        tokenizer.model_max_length = min(int(tokenizer.model_max_length), int(longest))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
