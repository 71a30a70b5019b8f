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
from model.lora import (
    adapter_parameters,
    adapter_tensors,
    adapters_of,
    add_adapters,
    base_tensors,
    load_base,
    merged_wide,
)
from model.lora_config import LoraConfig
from model.nf4 import Nf4Linear
from model.sharding.converted import all_as_in_files, is_otherwise
from model.weights import canonical
from rl.weight_sync import base_marks, sent_state, write_base
from tests import tiny_training as tiny
from tests.unit.model.test_families import config_of

LORA = LoraConfig(rank=2, alpha=3)
NORM, PROJECTION = "model.norm_f.weight", "model.layers.0.mixer.in_proj.weight"
IN_FILE = NORM.replace("model.", "backbone.")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny"))


def adapted(folder: Path, dtype: str = "float32") -> Any:
    return moved(add_adapters(load_model(folder, dtype=dtype), LORA))


def moved(model: Any) -> Any:
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


IN_4_BITS = LORA.model_copy(update={"base": "nf4"})


def on_4_bits(folder: Path, files: Path) -> Any:
    """An adapted model on the folder's in 4 bits, what these stand for in `files`."""
    model = load_base(folder, IN_4_BITS, "cpu")
    write_base(model, files)
    return moved(add_adapters(model, IN_4_BITS))


def test_over_4_bits_it_is_what_they_stand_for_and_the_adapters(
    folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    model = on_4_bits(folder, tmp_path / "base")
    wide = dict(merged_wide(model))
    found = merged(model, tmp_path / "base")
    assert found.keys() == wide.keys()
    for name, tensor in found.items():
        assert tensor.dtype == wide[name].dtype and torch.equal(tensor, wide[name]), name
    assert sent_state(model).keys() == dict(adapter_tensors(model)).keys()
    with pytest.raises(SyncError, match="stand on another base .*changed: .*Nothing was loaded"):
        merged(model, folder)  # the engine was never given it


def test_the_marks_of_4_bits_are_made_again_where_a_code_or_a_scale_is_written_to(
    folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    model = on_4_bits(folder, tmp_path / "base")
    marks = base_marks(model)
    assert marks is not None and base_marks(model) is marks
    layer = next(m for m in model.modules() if isinstance(m, Nf4Linear))
    for part in (layer.codes, layer.state.state2.absmax):
        with torch.no_grad():
            part.view(-1)[0] += 1
        changed = base_marks(model)
        assert changed is not None and changed is not marks
        assert len([name for name in marks if marks[name] != changed[name]]) == 1
        marks = changed
        with pytest.raises(SyncError, match="stand on another base"):
            merged(model, tmp_path / "base")


WITH_EXPERTS = ["granite, experts", "nemotron, experts", "mixtral", "olmoe", "qwen3 experts"]


@pytest.mark.parametrize(
    ("name", "base"),
    [
        *((name, "float32") for name in WITH_EXPERTS),
        ("granite, experts", "bfloat16"),
        ("mixtral", "nf4"),
    ],
)
def test_beside_experts_it_is_what_their_files_have(name: str, base: str, tmp_path: Path) -> None:
    """Routed experts stand otherwise in the files than in the model, and are not sent."""
    if base == "nf4":
        pytest.importorskip("bitsandbytes")
    how = LORA.model_copy(update={"base": base})
    origin = save_model(load_model(config_of(name), seed=0), tmp_path / "origin")
    model = load_base(origin, how, "cpu")
    files = write_base(model, tmp_path / "base") if base == "nf4" else origin
    moved(add_adapters(model, how))
    assert any(is_otherwise(model, *named) for named in base_tensors(model))
    assert sent_state(model).keys() == dict(adapter_tensors(model)).keys()
    wide = {canonical(n): t for n, t in all_as_in_files(model, merged_wide(model))}
    found = merged(model, files)
    assert found.keys() == wide.keys()
    for tensor_name, tensor in found.items():
        wanted = wide[tensor_name]
        assert tensor.dtype == wanted.dtype and torch.equal(tensor, wanted), tensor_name
    expert = next(n for n in found if n not in dict(base_tensors(model)))
    path = files / "model.safetensors"

    def one_exponent(tensors: dict[str, torch.Tensor]) -> None:
        (tensor,) = (t for n, t in tensors.items() if canonical(n) == expert)
        tensor.view(torch.uint8).view(-1)[3] ^= (
            1  # fp32's lowest bits are none of a trainer in bf16
        )

    changed(path, one_exponent)
    with pytest.raises(SyncError, match=f"changed: {expert}"):
        merged(model, files)
