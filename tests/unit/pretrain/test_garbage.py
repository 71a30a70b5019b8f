"""Garbage in a checkpoint folder: one line that names the file or the folder, wherever it is read."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.hybrid import build_config, load_model, save_model
from model.tokenizer import read_tokenizer, train_tokenizer
from rl.merge.linear import check_mergeable
from workbench.errors import UserError

SMALL: dict[str, Any] = {
    "pattern": "M-*-", "hidden_size": 32, "intermediate_size": 64, "mamba_num_heads": 4,
    "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 320,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tokenizer = train_tokenizer(["a few words", "of text"], 300, tmp_path / "tokenizer")
    return save_model(load_model(build_config(**SMALL), seed=1), tmp_path / "model", tokenizer)


def _header(text: bytes) -> Callable[[Path], Any]:
    return lambda f: _weights(f).write_bytes(struct.pack("<Q", len(text)) + text)


def _weights(folder: Path) -> Path:
    return folder / "model.safetensors"


def _config(**fields: Any) -> Callable[[Path], Any]:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    return change


def _index(content: Any) -> Callable[[Path], Any]:
    return lambda f: (f / "model.safetensors.index.json").write_text(json.dumps(content))


def _reshaped(folder: Path) -> None:
    tensors = load_file(_weights(folder))
    tensors["lm_head.weight" if "lm_head.weight" in tensors else sorted(tensors)[0]] = torch.zeros(
        3
    )
    save_file(tensors, _weights(folder), metadata={"format": "pt"})


def _a_folder(folder: Path) -> None:
    _weights(folder).unlink()
    _weights(folder).mkdir()


FAULTS: dict[str, Callable[[Path], Any]] = {
    "weights cut short": lambda f: _weights(f).write_bytes(_weights(f).read_bytes()[:-9]),
    "weights of 3 bytes": lambda f: _weights(f).write_bytes(b"abc"),
    "weights that are a folder": _a_folder,
    "header that is a list": _header(b"[]"),
    "header of text": _header(b"not json"),
    "header without offsets": _header(b'{"w": {}}'),
    "header with odd offsets": _header(b'{"w": {"data_offsets": [0, "x"]}}'),
    "header of an unknown type": _header(b'{"w": {"dtype": "Q9", "shape": [], "data_offsets": [0, 0]}}'),
    "tensors of other shapes": _reshaped,
    "no tensors": lambda f: save_file({}, _weights(f), metadata={"format": "pt"}),
    "config that is a list": lambda f: (f / "config.json").write_text("[]"),
    "config that is a number": lambda f: (f / "config.json").write_text("3"),
    "config cut short": lambda f: (f / "config.json").write_text('{"hidden_size": 3'),
    "config of bytes": lambda f: (f / "config.json").write_bytes(b"\xff\xfe\x00"),
    "empty config": lambda f: (f / "config.json").write_text("{}"),
    "deep config": lambda f: (f / "config.json").write_text("[" * 100_000),
    "config of another kind": _config(model_type="no_such_model"),
    "size that is text": _config(hidden_size="wide"),
    "size that is null": _config(hidden_size=None),
    "size that is negative": _config(hidden_size=-4),
    "generation settings that are a list": lambda f: (f / "generation_config.json").write_text("[]"),
    "a temperature of text": lambda f: (f / "generation_config.json").write_text('{"temperature": "hot"}'),
    "unknown layers": _config(layers_block_type=["dream"]),
    "code of its own": _config(model_type="own", auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own"}),
    "empty index": _index({}),
    "index that is a list": _index([]),
    "index without places": _index({"weight_map": {}}),
    "index of numbers": _index({"weight_map": {"w": 3}}),
    "index out of the folder": _index({"weight_map": {"w": "../model.safetensors"}}),
    "index of absent files": _index({"weight_map": {"w": "model-2.safetensors"}}),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_model_that_is_garbage_is_one_line(fault: str, folder: Path) -> None:
    FAULTS[fault](folder)
    with pytest.raises(UserError) as caught:
        load_model(folder)
    assert "\n" not in str(caught.value) and "model" in str(caught.value)


def test_a_temperature_without_sampling_can_be_written_again(folder: Path) -> None:
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.95}')
    save_model(load_model(folder), folder)
    written = json.loads((folder / "generation_config.json").read_text())
    assert (written["temperature"], written["top_p"]) == (0.6, 0.95)


TOKENIZER: dict[str, Callable[[Path], Any]] = {
    "a list": lambda f: (f / "tokenizer.json").write_text("[]"),
    "an empty object": lambda f: (f / "tokenizer.json").write_text("{}"),
    "cut short": lambda f: (f / "tokenizer.json").write_text('{"version":'),
    "bytes": lambda f: (f / "tokenizer.json").write_bytes(b"\x00\xff"),
    "gone": lambda f: shutil.rmtree(f),
    "settings that are a list": lambda f: (f / "tokenizer_config.json").write_text("[]"),
    "settings of text": lambda f: (f / "tokenizer_config.json").write_text("x"),
    "config that is a list": lambda f: (f / "config.json").write_text("[]"),
    "size that is small": _config(vocab_size=3),
}


@pytest.mark.parametrize("fault", TOKENIZER)
def test_a_tokenizer_that_is_garbage_is_one_line(fault: str, folder: Path) -> None:
    TOKENIZER[fault](folder)
    with pytest.raises(UserError) as caught:
        read_tokenizer(folder)
    assert "\n" not in str(caught.value) and str(folder) in str(caught.value)


@pytest.mark.parametrize(
    "fault", [f for f in FAULTS if f.startswith(("weights", "config", "index"))]
)
def test_what_is_merged_is_looked_at_too(fault: str, folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    save_model(load_model(build_config(**SMALL), seed=2), other)
    FAULTS[fault](other)
    with pytest.raises(UserError) as caught:
        check_mergeable(folder, other)
    assert "\n" not in str(caught.value)
