"""Hugging Face files straight into shards, and out of them: no process ever holds the model."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel

from model.checkpoint import check_files, check_loading, reading
from model.fp8.config import Fp8Config
from model.fp8.linear import convert
from model.hybrid import appearing, make_savable, portable
from model.layers.context import split_rows
from model.layers.install import install
from model.lora import adapter_state, drawn_adapters, save_adapters, without_inner
from model.lora_config import LoraConfig
from model.sharding.converted import as_in_files, parts
from model.sharding.core import whole_tensors
from model.sharding.shard import shard, whole
from model.weights import canonical, tensor_places, tied_names
from workbench.distributed import group
from workbench.distributed.mesh import Mesh
from workbench.rundir import write_json

_INDEX = "model.safetensors.index.json"
FILE_BYTES = 4 << 30
"""Largest weight file, and the most that the first process holds while it writes."""


Added = Callable[[PreTrainedModel], dict[str, torch.Tensor]]


def read_sharded(
    folder: Path,
    mesh: Mesh,
    *,
    precision: str = "fp32",
    dtype: torch.dtype = torch.float32,
    fp8: Fp8Config | None = None,
    lora: LoraConfig | None = None,
    add: Added | None = None,
) -> PreTrainedModel:
    """The checkpoint's model with documents isolated and its parameters sharded; see `load_model`.

    lora: adapters to put in, on a base of their type; they alone are trained. add: puts parameters that no
    file holds into the model while it has no numbers yet, and returns their values by name, the same in
    every process; they are trained too.
    fp8: how its projections are quantised; None: not. Each process reads its own slices. Every process must call it. Raises: UserError as `load_model`.
    """
    check_files(folder)
    dtype = getattr(torch, lora.dtype) if lora else dtype
    with reading(folder):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        # Numbers that nobody keeps are drawn: what is drawn behind them is as in one process.
        with torch.random.fork_rng(devices=[]), init_empty_weights(include_buffers=False):
            model = AutoModelForCausalLM.from_config(config, dtype=dtype)
        if (folder / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(folder)
        make_savable(model)
    model.config.dtype = dtype
    install(model)
    split_rows(model, mesh.context)
    added = _add(model, lora, add)
    buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
    if fp8 is not None:
        convert(model, fp8, group.device())
    shard(model, mesh, precision)
    model.to_empty(device=group.device())
    for name, buffer in model.named_buffers():
        buffer.copy_(buffers[name])
    model.tie_weights()
    _fill(model, folder, added)
    return model


def _add(
    model: PreTrainedModel, lora: LoraConfig | None, add: Added | None
) -> dict[str, torch.Tensor]:
    own = add(model) if add else {}
    adapters = drawn_adapters(model, lora) if lora else {}
    for name in own:  # adapters froze it with the rest
        model.get_parameter(name).requires_grad_(True)
    return own | adapters


def _fill(model: PreTrainedModel, folder: Path, added: dict[str, torch.Tensor]) -> None:
    """Copy this process's slices of every tensor out of the files, and of what was added."""
    own = {}
    for name, tensor in model.state_dict().items():
        if name in added:
            _copy(tensor.detach(), added[name])
        else:
            own[canonical(without_inner(name))] = tensor.detach()
    places = tensor_places(folder)
    wrong = []
    with ExitStack() as files:
        opened = {
            path: files.enter_context(safe_open(str(path), "pt"))
            for path in sorted({path for path, _ in places.values()})
        }
        for name in sorted(own.keys() & places.keys()):
            path, raw = places[name]
            part = opened[path].get_slice(raw)
            if list(part.get_shape()) != list(own[name].shape):
                wrong.append((name, part.get_shape(), own[name].shape))
                continue
            _copy(own[name], part)
        rest = {raw: path for name, (path, raw) in places.items() if name not in own}
        lacking = {name: t for name, t in own.items() if name not in places}
        made = parts(model, list(rest), lacking, lambda raw: opened[rest[raw]].get_tensor(raw))
        for part in made:
            value = part.make()
            if value.shape == own[part.name].shape:
                _copy(own[part.name], value)
            else:
                wrong.append((part.name, value.shape, own[part.name].shape))
            del lacking[part.name]
            for raw in part.raws:
                del rest[raw]
    report = {
        "missing_keys": lacking.keys() - tied_names(folder),
        "unexpected_keys": {canonical(raw) for raw in rest},
        "mismatched_keys": wrong,
    }
    check_loading(folder, report)


def _copy(target: torch.Tensor, part: Any) -> None:
    if not isinstance(target, DTensor):
        target.copy_(part[...] if target.ndim or isinstance(part, torch.Tensor) else part[:])
        return
    sizes, offsets = compute_local_shape_and_global_offset(
        target.shape, target.device_mesh, target.placements
    )
    local = target.to_local()
    if local.numel():
        slices = tuple(slice(at, at + size) for at, size in zip(offsets, sizes, strict=True))
        local.copy_(part[slices])


def write_sharded(model: PreTrainedModel, target: Path, *, like: Path, tokenizer: Any) -> None:
    """Write a plain checkpoint as `save_model` does: it appears complete or not at all.

    like: the checkpoint that the model was read from, whose names its tensors get. Every process must
    call it; the first one writes, tensor after tensor.
    """
    names = {name: raw for name, (_, raw) in tensor_places(like).items()}
    tensors = (
        (names[canonical(raw)], part)
        for name, tensor in whole_tensors(model)
        for raw, part in _of_files(model, name, tensor, names)
        if canonical(raw) in names
    )
    if not group.is_first():
        for _ in tensors:  # a gather needs all
            pass
    else:
        with appearing(target) as fresh:
            fresh.mkdir()
            _write_settings(model, fresh)
            _write_files(tensors, fresh)
            tokenizer.save_pretrained(fresh)
    group.barrier()


def _of_files(
    model: PreTrainedModel, name: str, tensor: torch.Tensor, names: dict[str, str]
) -> Iterable[tuple[str, torch.Tensor]]:
    """A tensor under its own name where the files have that, else as they have it."""
    if canonical(name) in names:
        return [(name, tensor)]
    return as_in_files(model, name, tensor).items()


def write_adapters(model: PreTrainedModel, config: LoraConfig, folder: Path, base: Path) -> None:
    """`save_adapters` of a sharded model. Every process must call it; the first one writes."""
    state = {name: whole(tensor) for name, tensor in adapter_state(model).items()}
    if group.is_first():
        save_adapters(model, config, folder, str(base), state)


def _write_settings(model: PreTrainedModel, folder: Path) -> None:
    # A sharded model's class has a name of its own, which no library knows.
    kind = next(c for c in type(model).__mro__[1:] if issubclass(c, PreTrainedModel))
    model.config.architectures = [kind.__name__]
    model.config.save_pretrained(folder)
    portable(folder / "config.json")
    if model.can_generate() and model.generation_config is not None:
        model.generation_config.save_pretrained(folder)


def _write_files(tensors: Iterator[tuple[str, torch.Tensor]], folder: Path) -> None:
    """model.safetensors, or several of at most FILE_BYTES with their index."""
    held: dict[str, torch.Tensor] = {}
    place: dict[str, str] = {}
    written: list[Path] = []
    total = 0

    def flush() -> None:
        path = folder / f"part-{len(written)}"
        save_file(held, path, metadata={"format": "pt"})
        place.update(dict.fromkeys(held, path.name))
        written.append(path)
        held.clear()

    for name, tensor in tensors:
        size = tensor.numel() * tensor.element_size()
        if held and sum(t.numel() * t.element_size() for t in held.values()) + size > FILE_BYTES:
            flush()
        held[name] = tensor.detach().cpu().contiguous()
        total += size
    flush()
    if len(written) == 1:
        written[0].rename(folder / "model.safetensors")
        return
    named = {
        path.name: f"model-{number:05d}-of-{len(written):05d}.safetensors"
        for number, path in enumerate(written, start=1)
    }
    for path in written:
        path.rename(folder / named[path.name])
    index = {name: named[part] for name, part in sorted(place.items())}
    write_json(folder / _INDEX, {"metadata": {"total_size": total}, "weight_map": index})
