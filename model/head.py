"""What stands behind the last hidden states: a matrix and a number, in nearly every family.

Losses and log-probabilities that never hold all logits multiply by that matrix themselves, so they have to know
what else a model does to its logits: Granite divides them, Falcon-H1 and Cohere multiply them, Gemma 2 bounds them.
"""

from threading import Lock
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from model.layers.context import group_of
from model.sharding.shard import inside
from workbench.errors import UserError


class Head(NamedTuple):
    """logits = (hidden * scale) @ weight.T; weight [V, D]."""

    weight: Tensor
    scale: float

    def read(self, hidden: Tensor) -> Tensor:
        """The hidden states [..., D] that the matrix alone is for."""
        return hidden if self.scale == 1.0 else hidden * self.scale


# What transformers' configurations call a factor of the logits. Some families divide by it and some multiply,
# before the output layer or behind it.
_FACTORS = ("logits_scaling", "logit_scale", "lm_head_multiplier")
# A small model's bound may be lost in rounding, so its name counts beside the look at a forward pass.
_BOUND = "final_logit_softcapping"
_SCALES: WeakKeyDictionary[nn.Module, float | None] = WeakKeyDictionary()
# Microbatches side by side would see each other's look.
_LOOKING = Lock()


def linear_head(model: Any) -> Head | None:
    """The output layer where it is a product of the last hidden states, perhaps with a factor; None for any
    other one (a bias, a bound). Looked at once, in a forward pass of a few tokens."""
    layer: Any = getattr(model, "get_output_embeddings", lambda: None)()
    if type(layer) is not nn.Linear or layer.bias is not None:
        return None
    with _LOOKING:
        if model not in _SCALES:
            _SCALES[model] = _look(model, layer)
        scale = _SCALES[model]
    return None if scale is None else Head(layer.weight, scale)


def must_be_linear(model: Any, *, what: str) -> Head:
    """`linear_head`. what: that needs one, as in "distill". Raises: UserError where there is none."""
    head = linear_head(model)
    if head is None:
        raise UserError(
            f"{type(model).__name__} does more to its logits than multiply (a bias, a bound): {what} cannot "
            "take it"
        )
    return head


def must_not_share(model: Any) -> None:
    """Before all of a row's logits are made. Raises: UserError where processes share rows."""
    if group_of(model) is not None:
        raise UserError(
            f"{type(model).__name__} changes its logits behind the output layer, so processes cannot share "
            "its rows; set distributed.context: 1"
        )


def _look(model: Any, layer: nn.Linear) -> float | None:
    config = model.config.get_text_config()
    if getattr(config, _BOUND, None) is not None:
        return None
    named = [float(value) for name in _FACTORS if (value := getattr(config, name, None))]
    scales = [1.0, *(scale for value in named for scale in (value, 1 / value))]
    seen = _seen(model, layer)
    return next((scale for scale in scales if _explains(scale, seen)), None)


@torch.no_grad()
def _seen(model: Any, layer: nn.Linear) -> dict[str, Tensor]:
    """Of a forward pass: the backbone's last hidden states, what the layer reads and says, and the logits."""
    seen: dict[str, Tensor] = {}
    hooks = [
        model.base_model.register_forward_hook(
            lambda _, args, out: seen.update(hidden=out.last_hidden_state)
        ),
        layer.register_forward_hook(lambda _, args, out: seen.update(read=args[0], said=out)),
    ]
    was_training = model.training
    model.eval()  # draws nothing
    try:
        few = (
            torch.arange(8, device=layer.weight.device)[None] % 2
        )  # shares out over a row's processes
        documents = {} if group_of(model) is None else {"seq_idx": torch.zeros_like(few).int()}
        call = {"input_ids": few, "use_cache": False, **documents}
        seen["logits"] = inside(model, lambda m: m(**call).logits)
    finally:
        model.train(was_training)
        for hook in hooks:
            hook.remove()
    return seen


def _explains(scale: float, seen: dict[str, Tensor]) -> bool:
    if "hidden" not in seen or "read" not in seen:
        return False
    hidden, said = seen["hidden"].to(seen["read"].dtype), seen["said"].to(seen["logits"].dtype)
    if scale == 1.0:
        return torch.equal(seen["read"], hidden) and torch.equal(seen["logits"], said)
    before = _close(seen["read"], hidden * scale) and torch.equal(seen["logits"], said)
    behind = torch.equal(seen["read"], hidden) and _close(seen["logits"], said * scale)
    return before or behind


def _close(found: Tensor, expected: Tensor) -> bool:
    # One rounding apart.
    steps = 2 * torch.finfo(found.dtype).eps
    return torch.allclose(found, expected, rtol=steps, atol=0.0)
