"""Resumable state of a training in many processes, which says nothing of its layout.

A checkpoint is a folder: tensors by torch's distributed checkpoint, each process writing its shards,
and the rest (steps, streams, generators) in one file of the first. It appears by rename. It continues in
any number of processes, and so does the single file that one process writes (workbench.checkpoint).
"""

import pickle
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any, Protocol

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.tensor import DTensor, distribute_tensor

from workbench.checkpoint import (
    Spared,
    damaged,
    load_state,
    older_states,
    save_whole,
    states,
    step_of,
)
from workbench.distributed import group
from workbench.errors import UserError
from workbench.fork import origin_state

_PLAIN, _TENSORS = "plain.pt", ("model", "optimizer")


class ShardedCheckpoints:
    """The checkpoints/ folder of a stage in many processes; keeps the newest `keep`, and the step that
    `spared` names.

    Every process makes one and calls the same methods. Saving goes on while the training does.
    """

    def __init__(self, folder: Path, *, keep: int = 2, spared: Spared = lambda: None) -> None:
        self.folder, self.keep, self.spared = folder, keep, spared
        # Its own group: saving goes on in a thread, and must not meet the training's collectives.
        self._group = dist.new_group(backend="gloo")
        self._saving: tuple[int, Future[Any]] | None = None
        self._appearing = Lock()

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Begin to write step-N, which appears once it is whole; what was begun before is waited for.

        state: a nested mapping with the keys "model" and "optimizer", tensors in which may be shards.
        """
        self.finish()
        half = self._half(step)
        if group.is_first():
            for left in self.folder.glob(".step-*"):
                shutil.rmtree(left, ignore_errors=True)
            half.mkdir(parents=True)
            plain = _without_tensors(state)
            save_whole(plain, half / _PLAIN)
        group.barrier()
        future = dcp.async_save(
            dict(_tensors(state)),
            storage_writer=dcp.FileSystemWriter(half, single_file_per_rank=True),
            process_group=self._group,
        )
        assert isinstance(future, Future)
        self._saving = step, future
        # The first process ends last: it writes where all the shards lie.
        future.add_done_callback(partial(self._appear, step))

    def finish(self) -> None:
        """Wait for what is being written; it then counts. Raises: what the writing raised."""
        if self._saving is None:
            return
        (step, future), self._saving = self._saving, None
        future.result()
        dist.barrier(group=self._group)
        self._appear(step, future)
        group.barrier()

    def _appear(self, step: int, future: "Future[Any]") -> None:
        """Give a written checkpoint its name, once, and delete the oldest."""
        if not group.is_first() or future.exception() is not None:
            return
        with self._appearing:
            if self._half(step).is_dir():
                self._half(step).rename(self.folder / f"step-{step:08d}")
                for old in older_states(self.folder, self.keep, self.spared()):
                    old.unlink() if old.is_file() else shutil.rmtree(old)

    def _half(self, step: int) -> Path:
        return self.folder / f".step-{step:08d}.writing"


def load_latest(
    folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any] | None:
    """The newest state in a folder, in the layout of this model and optimizer, or None.

    Every process must call it. The model's own tensors are read in place. Raises: UserError where the
    newest is damaged.
    """
    names = group.from_first(lambda: [path.name for path in states(folder)])
    if not names:
        return None
    newest = folder / names[-1]
    return load(newest, model, optimizer)


class Resumable(Protocol):
    """A training that continues from what it saved."""

    def load_state_dict(self, state: dict[str, Any]) -> None: ...

    def load_weights(self, state: dict[str, Any]) -> None: ...


def resume(
    training: Resumable, folder: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> bool:
    """Continue from the newest checkpoint in a stage's checkpoints/; False without one.

    A fork without the optimizer's state then begins with the weights of its origin. Every process must call
    it. Raises: UserError where a checkpoint is damaged or of another model.
    """
    state = load_latest(folder, model, optimizer)
    if state is not None:
        training.load_state_dict(state)
    elif (origin := origin_state(folder.parent)) is not None:
        training.load_weights(load(origin, model, optimizer))
    return state is not None


def return_to(
    folder: Path, step: int, model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """The state of one step in a folder. Every process must call it. Raises: UserError without it."""
    names = group.from_first(lambda: [p.name for p in states(folder) if step_of(p) == step])
    if not names:
        raise UserError(f"the checkpoint of step {step} is gone from {folder}; rerun --fresh")
    return load(folder / names[0], model, optimizer)


def load(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state in one checkpoint, a folder or a single file. See `load_latest`."""
    if path.is_file():
        state = load_state(path, mmap=True)
        return _laid_out(state, model, optimizer)
    state = load_state(path / _PLAIN)
    reader = _Reader(path)
    try:
        metadata = reader.read_metadata()
        targets: dict[str, torch.Tensor] = {}
        like = _like(model, optimizer)
        for name, entry in metadata.state_dict_metadata.items():
            # Of another model where it is unknown: the trainer says so by name.
            place = like.get(name)
            if place is None or place.shape != entry.size:
                place = torch.empty(entry.size, dtype=entry.properties.dtype)
            targets[name] = place
        alone = not dist.is_initialized()
        dcp.load(targets, storage_reader=_Reader(path), no_dist=alone)
    except _DAMAGED as error:
        raise damaged(path, f"{type(error).__name__}: {error}") from None
    for name, tensor in targets.items():
        _put(state, name.split("/"), tensor)
    return state


_DAMAGED = (
    OSError, EOFError, RuntimeError, ValueError, KeyError, AssertionError, pickle.UnpicklingError,
    dcp.api.CheckpointException,
)  # fmt: skip


def _like(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Path in the state -> the model's own tensor, or a new one laid out as a moment is."""
    found = {f"model/{name}": tensor for name, tensor in model.state_dict().items()}
    number = 0
    for part in optimizer.param_groups:
        for parameter in part["params"]:
            for moment in ("exp_avg", "exp_avg_sq"):
                found[f"optimizer/state/{number}/{moment}"] = torch.zeros_like(parameter)
            number += 1
    return {name: tensor.detach() for name, tensor in found.items()}


def _laid_out(
    state: dict[str, Any], model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> dict[str, Any]:
    """A state of whole tensors with this process's shards in their place."""
    like = _like(model, optimizer)
    for name, tensor in list(_tensors(state)):
        place = like.get(name)
        if isinstance(place, DTensor) and place.shape == tensor.shape:
            mine = distribute_tensor(
                tensor.to(place.device), place.device_mesh, place.placements, src_data_rank=None
            )
            _put(state, name.split("/"), mine)
        else:
            _put(state, name.split("/"), tensor.clone())  # the file may be deleted below it
    return state


def _tensors(state: dict[str, Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Path -> tensor, of the model and the optimizer."""
    for part in _TENSORS:
        yield from _leaves(state.get(part), part)


def _leaves(value: Any, path: str) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}/{key}")


def _without_tensors(state: dict[str, Any]) -> dict[str, Any]:
    def bare(value: Any) -> Any:
        if isinstance(value, dict):
            return {k: bare(v) for k, v in value.items() if not isinstance(v, torch.Tensor)}
        return value

    return {name: bare(value) if name in _TENSORS else value for name, value in state.items()}


def _put(state: dict[str, Any], path: list[str], tensor: torch.Tensor) -> None:
    """Set a leaf. The optimizer's numbers of parameters are whole numbers."""
    *above, last = path
    here: dict[Any, Any] = state
    for key in above:
        here = here.setdefault(int(key) if key.isdigit() else key, {})
    here[last] = tensor


class _Reader(dcp.FileSystemReader):
    """Reads what says where tensors lie without running what a pickle asks for."""

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        with (Path(self.path) / ".metadata").open("rb") as file:
            found = _PlainUnpickler(file).load()
        if not isinstance(found, Metadata):
            raise pickle.UnpicklingError(f".metadata holds a {type(found).__name__}")
        found.storage_meta = found.storage_meta or StorageMeta()
        found.storage_meta.load_id = self.load_id
        return found


class _PlainUnpickler(pickle.Unpickler):
    """Opens descriptions of tensors and nothing else: a pickle can run code."""

    def find_class(self, module: str, name: str) -> Any:
        described = module in _MODULES and name in _DESCRIPTIONS
        dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not described and not dtype and (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


_MODULES = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
_DESCRIPTIONS = {
    "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "ChunkStorageMetadata",
    "TensorProperties", "MetadataIndex", "StorageMeta", "_StorageInfo", "_MEM_FORMAT_ENCODING",
}  # fmt: skip
_KNOWN = {
    ("torch", "Size"), ("torch.serialization", "_get_layout"), ("torch", "device"),
    ("pathlib", "PosixPath"), ("builtins", "set"), ("collections", "OrderedDict"),
}  # fmt: skip
