"""Frozen linear layers in 4 bits: NormalFloat codes of 64 weights with one scale each (QLoRA, arXiv 2305.14314),
by bitsandbytes, on a card and on a CPU.

A layer's state is what it stands for: its weight in bf16, on the CPU, under its own name. So merged models,
syncs and saved checkpoints need no word about it; a checkpoint of a training holds adapters alone.
"""

import logging
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

BLOCK = 64
"""Weights of one scale; 256 scales have one of their own (QLoRA's double quantisation)."""


def _bitsandbytes() -> Any:
    # It says at import that it has looked for another package in vain.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    from bitsandbytes import functional as found  # noqa: PLC0415 - only where it is asked for

    return found


class _Product(torch.autograd.Function):
    """x W^T. The weight is made of its codes for each product and kept for none."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: "Nf4Linear") -> Tensor:
        ctx.layer = layer
        return functional.linear(x, layer.weight.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return grads[0] @ ctx.layer.weight.to(grads[0].dtype), None


class Nf4Linear(nn.Linear):
    """A linear layer whose weight is frozen in 4 bits. `quantise` makes it of a plain one."""

    codes: Tensor
    state: Any

    @property
    def weight(self) -> Float[Tensor, "out in"]:  # type: ignore[override]
        """What the codes stand for, bf16, where they lie. A new tensor each time."""
        found: Tensor = _bitsandbytes().dequantize_4bit(self.codes, self.state)
        return found

    def parts(self) -> Iterator[Tensor]:
        """All tensors that the weight is made of."""
        yield self.codes
        for state in (self.state, self.state.state2):
            yield from (value for value in vars(state).values() if isinstance(value, Tensor))

    def forward(self, input: Float[Tensor, "*b in"]) -> Float[Tensor, "*b out"]:
        """In the input's type, or autocast's."""
        kind = input.device.type
        if torch.is_autocast_enabled(kind):
            input = input.to(torch.get_autocast_dtype(kind))
        out: Tensor = _Product.apply(input, self)
        return out if self.bias is None else out + self.bias.to(out.dtype)

    def _apply(self, fn: Any, recurse: bool = True) -> "Nf4Linear":
        super()._apply(fn, recurse)
        self.state.to(self.codes.device)
        return self

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination[f"{prefix}weight"] = self.weight.cpu()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        state_dict.pop(f"{prefix}weight", None)  # frozen: it is as its checkpoint made it
        super()._load_from_state_dict(state_dict, prefix, *rest)


@torch.no_grad()
def quantise(model: nn.Module, names: Iterable[str], device: torch.device | str) -> nn.Module:
    """Put the linear layers of these names into 4 bits, one after the other, on `device`, and the rest of the
    model there too: it is never there whole in another type."""
    for name in names:
        layer: Any = model.get_submodule(name)
        weight = layer.weight.detach().to(device, torch.bfloat16).contiguous()
        del layer._parameters["weight"]
        codes, state = _bitsandbytes().quantize_4bit(
            weight, blocksize=BLOCK, compress_statistics=True, quant_type="nf4"
        )
        layer.__class__ = Nf4Linear
        layer.register_buffer("codes", codes, persistent=False)
        layer.state = state
    return model.to(device)


def in_4_bits(model: nn.Module) -> bool:
    """Whether `quantise` was called on it."""
    return any(isinstance(module, Nf4Linear) for module in model.modules())


@torch.no_grad()
def plain(layer: nn.Module) -> nn.Module:
    """A layer in 4 bits as an ordinary one in bf16; any other as it is."""
    if not isinstance(layer, Nf4Linear):
        return layer
    made = nn.Linear(
        layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta"
    )
    made.weight = nn.Parameter(layer.weight)
    made.bias = layer.bias
    return made
