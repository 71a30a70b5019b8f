"""Losses and advantages of the user's own: tensor functions that run in the trainer, tried on a tiny input
before anything is sampled, and held to shape and finiteness at every call.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from rl.loss import PolicyBatch
from workbench.custom_code import load_custom
from workbench.errors import UserError, one_line


def custom_advantage(path: str) -> Callable[[Sequence[float | None]], list[float | None]]:
    """`rl.advantage.advantages` by a function of the user's: f(rewards [G]) -> advantages [G], float64.

    Failed samples are left out of what it sees and stay None; it sees no group of fewer than two.
    Raises: UserError where it cannot be loaded, or its result is none.
    """
    function = _loaded(path)

    def advantages(rewards: Sequence[float | None]) -> list[float | None]:
        valid = [r for r in rewards if r is not None]
        if len(valid) < 2:
            return [None] * len(rewards)
        given = torch.tensor(valid, dtype=torch.float64)
        found = _must_be(_called(path, function, given), (len(valid),), path, f"rewards {valid}")
        values = iter(found.tolist())
        return [None if r is None else next(values) for r in rewards]

    for tried in ([1.0, 0.0, 0.5], [1.0, 1.0]):  # the second: a group that is all alike
        advantages(tried)
    return advantages


def custom_loss(path: str) -> Callable[[Tensor, PolicyBatch], Tensor]:
    """What each reply token adds to the loss, by a function of the user's: f(new [N], batch) -> [N].

    `batch` is a rl.loss.PolicyBatch: old, engine, advantage, mask, sequence and the rest [N].
    Raises: UserError where it cannot be loaded, or its result is none, or has no gradient.
    """
    function = _loaded(path)

    def loss(new: Tensor, batch: PolicyBatch) -> Tensor:
        return _must_be(_called(path, function, new, batch), tuple(new.shape), path, "a batch")

    new, batch = _tiny()
    found = loss(new, batch)
    if not found.requires_grad:
        raise UserError(f"function {path!r}: its loss has no gradient; it must be made from `new`")
    found.sum().backward()  # type: ignore[no-untyped-call]
    if new.grad is None or not bool(torch.isfinite(new.grad).all()):
        shown = "missing" if new.grad is None else new.grad.tolist()
        raise UserError(f"function {path!r}: the gradient of its loss is {shown}; make it finite")
    return loss


def _loaded(path: str) -> Callable[..., Any]:
    found = load_custom(path)
    if not callable(found):
        raise UserError(f"function {path!r} is {type(found).__name__} {found!r:.60}, no function")
    return found  # type: ignore[no-any-return]


def _called(path: str, function: Callable[..., Any], *given: Any) -> Any:
    try:
        return function(*given)
    except Exception as error:
        raise UserError(f"function {path!r} raises {one_line(error)}") from error


def _must_be(found: Any, shape: tuple[int, ...], path: str, of: str) -> Tensor:
    if not isinstance(found, Tensor):
        raise UserError(f"function {path!r} gives {type(found).__name__}; it must give a tensor")
    if tuple(found.shape) != shape:
        raise UserError(
            f"function {path!r} gives a tensor of shape {list(found.shape)} for {of}; it must be "
            f"{list(shape)}"
        )
    if not bool(torch.isfinite(found.detach()).all()):
        raise UserError(f"function {path!r} gives a value that is not finite for {of}")
    return found


def _tiny() -> tuple[Tensor, PolicyBatch]:
    """Two replies of three tokens, one better and one worse; the policy has moved a little."""
    old = torch.tensor([-0.5, -1.0, -2.0, -0.1, -3.0, -0.7], dtype=torch.float64)
    places = torch.arange(6)
    batch = PolicyBatch(
        input_ids=torch.arange(8),
        document=torch.tensor([0, 0, 0, 0, 1, 1, 1, 1], dtype=torch.int32),
        position=torch.tensor([0, 1, 2, 4, 5, 6]),
        target=places,
        sequence=torch.tensor([0, 0, 0, 1, 1, 1]),
        engine=old.clone(),
        advantage=torch.tensor([1.0, 1.0, 1.0, -1.0, -1.0, -1.0], dtype=torch.float64),
        mask=torch.tensor([True, True, False, True, True, True]),
        version=torch.zeros(6, dtype=torch.long),
        num_sequences=2,
        old=old,
        reference=old - 0.1,
        fresh=torch.ones(6, dtype=torch.bool),
    )
    new = (old + torch.tensor([0.1, -0.1, 0.0, 0.2, -0.3, 0.1])).requires_grad_()
    return new, batch
