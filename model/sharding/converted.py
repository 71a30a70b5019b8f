"""Layers of experts between a model and its files: one tensor there, one of each expert (or under another
name) here, by transformers' own table. One layer's tensors are in memory at a time."""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    WeightConverter,
    WeightRenaming,
    WeightTransform,
    dot_natural_key,
    rename_source_key,
    revert_weight_conversion,
)

from model.weights import canonical

Read = Callable[[str], torch.Tensor]


class Part(NamedTuple):
    """A tensor of the model, and the files' tensors that it is made of."""

    name: str
    raws: list[str]
    make: Callable[[], torch.Tensor]


def parts(
    model: PreTrainedModel, raws: list[str], wanted: Mapping[str, torch.Tensor], read: Read
) -> Iterator[Part]:
    """Which of the `wanted` tensors (name -> tensor of the model) are made of the files' `raws`, and how."""
    table = get_model_conversion_mapping(model)
    renamings = [entry for entry in table if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in table if isinstance(entry, WeightConverter)]
    by_pattern = {pattern: c for c in converters for pattern in c.source_patterns}
    made = dict[str, WeightTransform]()
    sources = dict[str, list[str]]()
    for raw in sorted(raws, key=dot_natural_key):
        name, pattern = rename_source_key(
            raw, renamings, converters, model.base_model_prefix, dict(wanted)
        )
        if name not in wanted:
            continue
        if name not in made:
            converter = by_pattern[pattern] if pattern else WeightRenaming(raw, name)
            made[name] = copy.deepcopy(converter)
        made[name].add_tensor(name, raw, pattern or raw, lambda raw=raw: read(raw))  # type: ignore[misc,arg-type]
        sources.setdefault(name, []).append(raw)
    for name, how in made.items():
        yield Part(name, sources[name], lambda name=name, how=how: _made(model, name, how))  # type: ignore[misc]


def _made(model: PreTrainedModel, name: str, how: WeightTransform) -> torch.Tensor:
    found = how.convert(name, model=model, config=model.config)[name]  # type: ignore[attr-defined]
    tensor: torch.Tensor = found[0] if isinstance(found, list) else found
    return tensor


def as_in_files(model: PreTrainedModel, name: str, tensor: torch.Tensor) -> dict[str, torch.Tensor]:
    """A tensor of the model as the files have it: their names, in the table's way -> tensor."""
    found: dict[str, torch.Tensor] = revert_weight_conversion(model, {name: tensor})
    return found


# Of each model: the tensors that its files have otherwise. Asked for at every weight sync.
_OTHERWISE: WeakKeyDictionary[PreTrainedModel, dict[str, bool]] = WeakKeyDictionary()


def all_as_in_files(
    model: PreTrainedModel, tensors: Iterable[tuple[str, torch.Tensor]]
) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of the model as its files have them, which is how engines know them: one of each expert where
    the model holds one for all, say. What has the same name in both is given as it is."""
    for name, tensor in tensors:
        other = is_otherwise(model, name, tensor)
        yield from as_in_files(model, name, tensor).items() if other else [(name, tensor)]


def is_otherwise(model: PreTrainedModel, name: str, tensor: torch.Tensor) -> bool:
    """Whether the model's files have the tensor under another name, or in parts."""
    known = _OTHERWISE.setdefault(model, {})
    if name not in known:
        shape_alone = torch.empty(tensor.shape, dtype=tensor.dtype, device="meta")
        names = {canonical(found) for found in as_in_files(model, name, shape_alone)}
        known[name] = names != {canonical(name)}
    return known[name]
