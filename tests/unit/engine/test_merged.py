"""The engine's checkpoint with adapters in it: to the bit the trainer's base, and an error that names what is not.

No engine is needed; what vLLM makes of it is in tests/integration/test_weight_sync.py.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine.merged import Merged
from engine.sync_check import SyncError
from model.hybrid import load_model, save_model
from model.lora import adapter_parameters, adapter_tensors, adapters_of, add_adapters, base_tensors
from model.lora_config import LoraConfig
from rl.weight_sync import base_marks
from tests import tiny_training as tiny

LORA = LoraConfig(rank=2, alpha=3)
NORM, PROJECTION = "model.norm_f.weight", "model.layers.0.mixer.in_proj.weight"
IN_FILE = NORM.replace("model.", "backbone.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny"))


def adapted(folder: Path, dtype: str = "float32") -> Any:
    model = add_adapters(load_model(folder, dtype=dtype), LORA)
    made = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in adapter_parameters(model):
            parameter.copy_(torch.randn(parameter.shape, generator=made) * 0.1)
    return model


def merged(model: Any, folder: Path) -> Merged:
    marks = base_marks(model)
    assert marks is not None
    return Merged(str(folder), marks, list(adapter_tensors(model)), version=3, device="cpu")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_is_the_base_in_the_trainers_type_and_merged_in_fp32(folder: Path, dtype: str) -> None:
    model = adapted(folder, dtype)
    found, base = merged(model, folder), dict(base_tensors(model))
    adapters = adapters_of(dict(adapter_tensors(model)))
    assert set(found) == set(base) and len(found) == len(base) > len(adapters) > 0
    for name, tensor in found.items():
        if name in adapters:
            assert tensor.dtype == torch.float32
            assert torch.equal(tensor, adapters[name].merged(base[name]))
            assert not torch.equal(tensor, base[name].float())
        else:
            assert tensor.dtype == base[name].dtype and torch.equal(tensor, base[name])
    assert torch.equal(found[PROJECTION], found[PROJECTION])  # merged again, the file as it was


def test_a_file_that_is_wider_than_its_config_says_is_read_as_it_is(
    folder: Path, tmp_path: Path
) -> None:
    """A bf16 checkpoint with some tensors in fp32: trainer and engine take the same numbers of it."""
    mixed = save_model(load_model(folder, dtype="bfloat16"), tmp_path / "mixed")
    path = mixed / "model.safetensors"
    tensors = load_file(path)
    tensors[IN_FILE] = tensors[IN_FILE].float() + 2.0**-20
    save_file(tensors, path, metadata={"format": "pt"})
    model = adapted(mixed)
    assert torch.equal(model.get_parameter(NORM), tensors[IN_FILE])
    assert torch.equal(merged(model, mixed)[NORM], tensors[IN_FILE])
    assert merged(adapted(mixed, "bfloat16"), mixed)[NORM].dtype == torch.bfloat16


def test_a_tied_head_is_its_embedding(tmp_path: Path) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(shape).save_pretrained(tmp_path)
    found = merged(adapted(tmp_path), tmp_path)
    assert "lm_head.weight" not in found and "model.embed_tokens.weight" in found


def changed(path: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def flip(tensors: dict[str, torch.Tensor]) -> None:
    tensors[IN_FILE].view(torch.int32)[0] ^= 1


def exchange(tensors: dict[str, torch.Tensor]) -> None:
    one, two = (n for n in tensors if n.endswith(("k_proj.weight", "v_proj.weight")))
    tensors[one], tensors[two] = tensors[two], tensors[one]


FILES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "one bit": (lambda path: changed(path, flip), f"changed: {NORM}"),
    "exchanged": (lambda path: changed(path, exchange), "changed: .*k_proj.weight, .*v_proj.weight"),
    "lost": (lambda path: changed(path, lambda t: t.pop(IN_FILE)), f"missing: {NORM}"),
    "one more": (
        lambda path: changed(path, lambda t: t.update(extra=torch.ones(1))), "unknown: extra",
    ),
    "cut": (lambda path: path.write_bytes(path.read_bytes()[:-9]), "cut short or damaged"),
    "gone": (Path.unlink, "has no weights"),
    "no config": (lambda path: (path.parent / "config.json").unlink(), "no config.json"),
}  # fmt: skip


@pytest.mark.parametrize("what", FILES)
def test_a_base_that_is_another_is_an_error_that_names_it(
    folder: Path, tmp_path: Path, what: str
) -> None:
    change, says = FILES[what]
    own = save_model(load_model(folder), tmp_path / "own")
    model = adapted(own)
    merged(model, own)
    change(own / "model.safetensors")
    with pytest.raises(SyncError, match=f"weight sync of version 3: .*{says}.*Nothing was loaded"):
        merged(model, own)


def test_adapters_that_do_not_fit_are_an_error(folder: Path) -> None:
    model = adapted(folder)
    marks, sent = base_marks(model), dict(adapter_tensors(model))
    assert marks is not None

    def refused(tensors: dict[str, torch.Tensor], says: str) -> None:
        with pytest.raises(SyncError, match=f"{says}.*Nothing was loaded"):
            Merged(str(folder), marks, list(tensors.items()), version=3, device="cpu")

    scaling = next(name for name in sent if name.endswith("lora_scaling"))
    refused({n: t for n, t in sent.items() if n != scaling}, f"not whole adapters: {scaling}")
    other = {n.replace("layers.0", "layers.9"): t for n, t in sent.items()}
    refused(other, "adapters of model.layers.9")
