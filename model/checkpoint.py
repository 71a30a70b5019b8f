"""Checks of a Hugging Face checkpoint: every file whole, every tensor accounted for.

transformers warns about missing tensors and carries on with random ones; here that is an error.
"""

import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from model.weights import json_object, listed_files
from workbench.errors import UserError, one_line, some_of


def check_files(path: str | Path) -> None:
    """Check config.json and the lengths of the safetensors files of a local checkpoint.

    A name that is not a local directory is left to the hub. Errors: UserError.
    """
    folder = Path(path)
    if not folder.is_dir():
        if folder.exists() or str(path).startswith((".", "/", "~")) or str(path).count("/") != 1:
            raise UserError(f"no model at {path}: give a checkpoint directory or a hub id ORG/NAME")
        return
    config = folder / "config.json"
    if not config.is_file():
        raise UserError(f"{folder} has no config.json, so it is not a Hugging Face checkpoint")
    json_object(config)
    shards = sorted(folder.glob("*.safetensors"))
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        absent = sorted(listed_files(index) - {shard.name for shard in shards})
        if absent:
            raise UserError(f"{folder} lacks the weight files {', '.join(absent)}; copy it again")
    if not shards and not list(folder.glob("pytorch_model*.bin")):
        raise UserError(f"{folder} has no weights (*.safetensors); copy it again")
    for shard in shards:
        _check_length(shard)


def _check_length(shard: Path) -> None:
    """A safetensors file is 8 bytes of header length, a JSON header, and the tensors it lists."""
    if not shard.is_file():
        raise UserError(f"{shard} is not a file; copy the checkpoint again")
    size = shard.stat().st_size
    cut = UserError(f"{shard} is cut short ({size:,} bytes); copy the checkpoint again")
    with shard.open("rb") as file:
        head = file.read(8)
        if len(head) < 8:
            raise cut
        (header_size,) = struct.unpack("<Q", head)
        if 8 + header_size > size:
            raise cut
        damaged = UserError(f"{shard} has a damaged header; copy the checkpoint again")
        try:
            header = json.loads(file.read(header_size))
            entries = [v for k, v in header.items() if k != "__metadata__"]
            end = max((int(e["data_offsets"][1]) for e in entries), default=0)
        except (ValueError, RecursionError, AttributeError, KeyError, TypeError, IndexError):
            raise damaged from None
    if 8 + header_size + end > size:
        raise cut


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """One line for whatever a library raises on a checkpoint whose files are not what they should be.

    Raises: UserError. A lack of memory or of packages stays what it is.
    """
    try:
        yield
    except (UserError, MemoryError, ImportError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # garbage breaks the library wherever it happens to be read
        raise UserError(
            f"the checkpoint {path} cannot be read ({one_line(error, 300)}); copy it again"
        ) from error


def check_loading(path: str | Path, report: Mapping[str, Any]) -> None:
    """Raise UserError if transformers' loading report leaves any tensor unaccounted for."""
    problems = _problems(report)
    if problems:
        raise UserError(
            f"the checkpoint {path} does not match its config.json: tensors "
            + "; tensors ".join(problems)
        )


def _problems(report: Mapping[str, Any]) -> list[str]:
    """What a loading report leaves unaccounted for, in words."""
    problems: list[str] = []
    for kind, key in (("missing", "missing_keys"), ("unexpected", "unexpected_keys")):
        if names := sorted(report.get(key, ())):
            problems.append(f"{kind} {some_of(names, 5)}")
    if wrong := report.get("mismatched_keys"):
        shapes = [f"{n} {list(got)} instead of {list(want)}" for n, got, want in sorted(wrong)]
        problems.append(f"of another shape {some_of(shapes, 5)}")
    if failed := report.get("error_msgs"):
        problems.append(f"not readable: {some_of(list(map(str, failed)), 5)}")
    return problems


def check_state(model: Any, optimizer: Any, state: Mapping[str, Any]) -> None:
    """Raise UserError unless a training state has every tensor of this model and optimizer."""
    missing = {"step", "model", "optimizer", "stream", "rng"} - state.keys()
    if missing:
        raise UserError(
            f"the training checkpoint lacks {', '.join(sorted(missing))}; rerun with --fresh"
        )
    own, kept = model.state_dict(), state["model"]
    report = {
        "missing_keys": own.keys() - kept.keys(),
        "unexpected_keys": kept.keys() - own.keys(),
        "mismatched_keys": [
            (name, kept[name].shape, own[name].shape)
            for name in own.keys() & kept.keys()
            if kept[name].shape != own[name].shape
        ],
    }
    problems = _problems(report)
    count = sum(len(group["params"]) for group in optimizer.param_groups)
    moments = len(state["optimizer"]["state"])
    if moments != count and (moments or state["step"]):  # before the first step there are none
        problems.append(f"of the optimizer for {moments} parameters instead of {count}")
    if problems:
        raise UserError(
            "the training checkpoint is of another model: tensors "
            + "; tensors ".join(problems)
            + "; rerun with --fresh"
        )
