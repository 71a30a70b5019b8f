"""Building, loading and saving hybrids; checkpoints that must be refused."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from model.hybrid import build_config, load_model, save_model
from workbench.errors import UserError

TINY: dict[str, Any] = {
    "pattern": "M-*M",
    "hidden_size": 32,
    "intermediate_size": 48,
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
    "n_groups": 2,
    "ssm_state_size": 8,
    "dtype": "float32",
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    model = load_model(build_config(**TINY), seed=3)
    return save_model(model, tmp_path_factory.mktemp("hybrid") / "model")


def test_build_config_from_a_pattern() -> None:
    config = build_config(**TINY)
    kinds = ["linear_attention", "mlp", "full_attention", "linear_attention"]
    assert config.layers_block_type == kinds
    assert config.hybrid_override_pattern == "M-*M"
    assert build_config("miniature", vocab_size=1024).vocab_size == 1024


def test_new_models_depend_on_the_seed_only() -> None:
    before = torch.random.get_rng_state()
    first = load_model(build_config(**TINY), seed=1).state_dict()
    again = load_model(build_config(**TINY), seed=1).state_dict()
    other = load_model(build_config(**TINY), seed=2).state_dict()
    assert torch.equal(before, torch.random.get_rng_state())
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["lm_head.weight"], other["lm_head.weight"])


def test_initial_time_steps_are_between_a_thousandth_and_a_tenth() -> None:
    model = load_model(build_config("miniature", mamba_num_heads=512), seed=0)
    dt = torch.nn.functional.softplus(model.model.layers[0].mixer.dt_bias)
    assert 0.00099 < dt.min() < 0.0015
    assert 0.07 < dt.max() < 0.101


def test_saved_model_is_plain_and_equal_bit_by_bit(checkpoint: Path) -> None:
    model = load_model(build_config(**TINY), seed=3)
    plain = AutoModelForCausalLM.from_pretrained(checkpoint)
    assert plain.config._attn_implementation != "document_sdpa"
    assert "document" not in (checkpoint / "config.json").read_text()
    theirs, ours = plain.state_dict(), model.state_dict()
    assert theirs.keys() == ours.keys()
    assert all(torch.equal(theirs[name], ours[name]) for name in ours)
    ids = torch.arange(40)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            load_model(checkpoint)(ids, use_cache=False).logits,
            plain(ids, use_cache=False).logits,
            atol=1e-6,
            rtol=1e-5,
        )


def test_small_time_steps_are_not_clamped(checkpoint: Path) -> None:
    """transformers clamps dt at `time_step_min`; a saved model must agree there as well."""
    model = load_model(checkpoint)
    with torch.no_grad():
        for layer in (0, 3):
            mixer = model.model.layers[layer].mixer
            mixer.dt_bias.fill_(-12.0)  # dt = 6e-6
            mixer.conv1d.weight.normal_(std=4.0)  # large x, B and C, so that the scan counts
    folder = save_model(model, checkpoint.parent / "slow")
    ids = torch.randint(3, 64, (1, 60), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours = model(ids, use_cache=False).logits
        theirs = AutoModelForCausalLM.from_pretrained(folder)(ids, use_cache=False).logits
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
        for layer in (0, 3):
            model.model.layers[layer].mixer.time_step_limit = (0.001, float("inf"))
        clamped = model(ids, use_cache=False).logits
    assert (ours - clamped).abs().max() > 1e-4


def test_saving_replaces_and_leaves_nothing_behind(checkpoint: Path) -> None:
    target = checkpoint.parent / "twice"
    for seed in (0, 1):
        save_model(load_model(build_config(**TINY), seed=seed), target)
    assert not [p for p in target.parent.iterdir() if p.name.startswith(".")]
    expected = load_model(build_config(**TINY), seed=1).state_dict()
    assert torch.equal(
        load_model(target).state_dict()["lm_head.weight"], expected["lm_head.weight"]
    )


def test_failed_saving_leaves_the_old_checkpoint(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(checkpoint)
    target = save_model(model, checkpoint.parent / "kept")
    before = (target / "model.safetensors").read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(model, "save_pretrained", fail)
    with pytest.raises(OSError, match="no space"):
        save_model(model, target)
    assert (target / "model.safetensors").read_bytes() == before


def _broken(checkpoint: Path, name: str) -> Path:
    """A copy of the checkpoint to break."""
    copy = checkpoint.parent / name
    copy.mkdir()
    for file in checkpoint.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_cut_short_checkpoint_is_refused(checkpoint: Path, keep: int) -> None:
    copy = _broken(checkpoint, f"cut{keep}")
    weights = copy / "model.safetensors"
    os.truncate(weights, keep if keep >= 0 else weights.stat().st_size - 1)
    with pytest.raises(UserError, match="cut short"):
        load_model(copy)


def test_tensors_are_all_accounted_for(checkpoint: Path) -> None:
    copy = _broken(checkpoint, "edited")
    tensors = load_file(copy / "model.safetensors")
    name = next(n for n in tensors if n.endswith("0.mixer.dt_bias"))
    value = tensors.pop(name)
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"missing .*layers.0.mixer.dt_bias"):
        load_model(copy)
    wrong = tensors | {name: torch.zeros(5)}
    save_file(wrong, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"another shape .*dt_bias \[5\] instead of \[4\]"):
        load_model(copy)
    extra = tensors | {name: value, "model.surprise": torch.zeros(2)}
    save_file(extra, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"unexpected .*surprise"):
        load_model(copy)


def test_checkpoint_of_another_size_is_refused(checkpoint: Path) -> None:
    copy = _broken(checkpoint, "resized")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"intermediate_size": 64}))
    with pytest.raises(UserError, match="another shape"):
        load_model(copy)


def test_directories_that_are_no_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model at"):
        load_model(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"no config\.json"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match="not valid JSON"):
        load_model(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="no weights"):
        load_model(tmp_path)
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="lacks the weight files model-00001"):
        load_model(tmp_path)
    with pytest.raises(UserError, match="dtype 'half'"):
        load_model(tmp_path, dtype="half")


def test_attention_only_model_isolates_documents(tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    torch.manual_seed(0)
    plain = LlamaForCausalLM(config).eval()
    plain.save_pretrained(tmp_path / "llama")
    model = load_model(tmp_path / "llama").eval()
    lengths = [7, 1, 30, 12]
    ids = torch.randint(0, 64, (1, sum(lengths)))
    seq_idx = torch.arange(4).repeat_interleave(torch.tensor(lengths))[None]
    with torch.no_grad():
        packed = model(ids, seq_idx=seq_idx).logits
        alone = torch.cat([plain(part).logits for part in ids.split(lengths, dim=1)], dim=1)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)


def test_a_configuration_makes_the_same_model_twice() -> None:
    config = build_config(**TINY)
    first, again = (load_model(config, seed=3).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.parametrize("dtype", ["bfloat16", "float64"])
def test_rotary_positions_are_not_rounded(dtype: str, tmp_path: Path) -> None:
    """Of a base in half precision, as LoRA holds it, against transformers' own reading of it."""
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        rope_parameters={"rope_type": "default", "rope_theta": 130_000.0},
    )  # fmt: skip
    save_model(load_model(config, seed=0), tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=getattr(torch, dtype))
    for ours in (load_model(tmp_path, dtype=dtype), load_model(config, dtype=dtype, seed=0)):
        assert next(ours.parameters()).dtype == getattr(torch, dtype)
        buffers = dict(ours.named_buffers())
        for name, buffer in theirs.named_buffers():
            assert buffers[name].dtype == buffer.dtype and torch.equal(buffers[name], buffer), name
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name
