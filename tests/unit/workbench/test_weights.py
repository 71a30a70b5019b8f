"""The tensors of a sync: all there, of the right shapes, and held as given. No engine is needed."""

import math
from typing import Any

import pytest
import torch
from torch import nn

from engine.readback import Readback, check_readback, relative_error
from engine.sync_check import SyncError
from model.weights import TensorSpec, check_tensors
from workbench.errors import UserError

SPECS = {
    "model.a.weight": TensorSpec((2, 3), "float32"),
    "model.b.bias": TensorSpec((4,), "bfloat16"),
}


def given() -> dict[str, torch.Tensor]:
    return {"backbone.a.weight": torch.ones(2, 3), "model.b.bias": torch.zeros(4)}


def check(tensors: dict[str, torch.Tensor], **more: Any) -> list[str]:
    return [name for name, _ in check_tensors(SPECS, list(tensors.items()), **more)]


def test_exactly_the_engines_tensors_pass_under_canonical_names() -> None:
    """Trainers hold fp32 masters of what an engine holds in bf16; a tied copy is left out."""
    assert check(given()) == list(SPECS)
    tied = {**given(), "lm_head.weight": torch.ones(5, 3)}
    assert check(tied, tied=frozenset({"lm_head.weight"})) == list(SPECS)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"model.b.bias": None}, "missing: model.b.bias"),
        ({"model.c": torch.ones(1)}, "unknown: model.c"),
        ({"model.a.weight": torch.ones(2, 3)}, "'model.a.weight' arrives twice"),
        ({"model.b.bias": torch.zeros(5)}, r"has shape \(5,\), the engine's model \(4,\)"),
        (
            {"backbone.a.weight": torch.ones(3, 2)},
            r"has shape \(3, 2\), the engine's model \(2, 3\)",
        ),
        ({"model.b.bias": torch.zeros(4).half()}, "is float16, the engine's model bfloat16"),
    ],
)
def test_any_other_set_is_refused_by_name(changes: dict[str, Any], says: str) -> None:
    tensors = {k: v for k, v in (given() | changes).items() if v is not None}
    with pytest.raises(UserError, match=says):
        check(tensors)


def held() -> nn.Module:
    model = nn.Module()
    model.one, model.two = nn.Linear(3, 2), nn.Linear(2, 2)
    for parameter in model.parameters():
        nn.init.normal_(parameter, generator=torch.Generator().manual_seed(parameter.numel()))
    return model


def errors_of(model: nn.Module, **changes: torch.Tensor) -> dict[str, float]:
    tensors = {name: value.clone() for name, value in held().state_dict().items()}
    tensors |= {name.replace("__", "."): value for name, value in changes.items()}
    found = Readback(model, tensors)
    assert not found.unread
    check_readback(found.errors, found.tolerances, 7)
    return found.errors


def test_what_is_held_as_given_has_no_error() -> None:
    errors = errors_of(held())
    assert sorted(errors) == sorted(held().state_dict())
    assert set(errors.values()) == {0.0}


@pytest.mark.parametrize("value", [1.001, math.nan, math.inf, 0.0])
def test_one_value_that_is_held_otherwise_is_named(value: float) -> None:
    model = held()
    with torch.no_grad():
        place = model.two.weight[1]
        place[0] = place[0] * value if 0 < value < 2 else value
    with pytest.raises(SyncError, match=r"version 7: .* what it was given: two\.weight"):
        errors_of(model)


def test_errors_are_relative_to_the_largest_value_and_never_nothing() -> None:
    given = torch.tensor([0.0, -4.0])
    assert relative_error(torch.tensor([1.0, -4.0]), given) == 0.25
    assert relative_error(torch.tensor([math.nan, -4.0]), given) == math.inf
    assert relative_error(torch.tensor([0.0]), given) == math.inf
    assert relative_error(torch.tensor([1e-40, -4.0]).double(), given.double()) > 0
    with pytest.raises(SyncError, match="does not hold what it was given: w"):
        check_readback({"w": math.nan}, {"w": 1e-3}, 1)
    check_readback({"w": 1e-3}, {"w": 1e-3}, 1)
