"""RMSNorm and the gated group RMSNorm of a Mamba-2 layer, one kernel a pass."""

from typing import Any

import torch
import triton

from model.layers.triton import launch, norm_kernels

# Values of a tile, tiles that one program sums the weight's gradient over, and the widest part.
_TILE, _STEPS, MOST_WIDTH = 4096, 8, 16384


def gated_norm(
    y: torch.Tensor, gate: torch.Tensor, weight: torch.Tensor, *, groups: int, eps: float
) -> torch.Tensor:
    """weight * rms_norm(y * silu(gate)) over each of `groups` equal parts -> [B, T, D] of y's type.

    y [B, T, D]; gate [B, T, D] may be a view of a wider tensor; weight [D].
    """
    return _Norm.apply(y, gate if gate.stride(-1) == 1 else gate.contiguous(), weight, groups, eps)


def rms_norm(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """weight * x / rms(x) over the last axis, of x's type."""
    return _Norm.apply(x, None, weight, 1, eps)


def _sizes(x: torch.Tensor, groups: int) -> tuple[int, dict[str, int]]:
    """Width of a part, and the tile."""
    width = x.shape[-1] // groups
    whole = int(triton.next_power_of_2(width))
    return width, {"ROWS": max(1, min(64, _TILE // whole)), "W": whole}


def _numbers(x: torch.Tensor, gate: torch.Tensor | None, width: int) -> tuple[int, ...]:
    """rows, tokens of a row, and widths and strides."""
    rows = x.numel() // x.shape[-1]
    if gate is None:
        return rows, rows, x.shape[-1], width, 0, 0
    return rows, x.shape[1], x.shape[-1], width, gate.stride(0), gate.stride(1)


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        gate: torch.Tensor | None,
        weight: torch.Tensor,
        groups: int,
        eps: float,
    ) -> torch.Tensor:
        x, out = x.contiguous(), torch.empty(x.shape, dtype=x.dtype, device=x.device)
        width, tile = _sizes(x, groups)
        numbers = _numbers(x, gate, width)
        with launch.on(x.device):
            norm_kernels.forward[(triton.cdiv(numbers[0], tile["ROWS"]), groups)](
                x, x if gate is None else gate, weight, out, *numbers, eps,
                GATE=gate is not None, **tile, num_warps=8,
            )  # fmt: skip
        ctx.save_for_backward(x, gate, weight)
        ctx.rest = (groups, eps)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        x, gate, weight = ctx.saved_tensors
        groups, eps = ctx.rest
        width, tile = _sizes(x, groups)
        numbers = _numbers(x, gate, width)
        pieces = triton.cdiv(numbers[0], tile["ROWS"] * _STEPS)
        grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        grad_gate = (
            None if gate is None else torch.empty(x.shape, dtype=gate.dtype, device=x.device)
        )
        parts = torch.empty(pieces, x.shape[-1], device=x.device)
        with launch.on(x.device):
            norm_kernels.backward[(pieces, groups)](
                x, x if gate is None else gate, weight, grads[0].contiguous(),
                grad_x, grad_x if grad_gate is None else grad_gate, parts, *numbers, eps,
                GATE=gate is not None, **tile, STEPS=_STEPS, num_warps=8,
            )  # fmt: skip
        return grad_x, grad_gate, parts.sum(0).to(weight.dtype), None, None
