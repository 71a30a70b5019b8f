"""The gated, grouped RMSNorm in front of a Mamba-2 layer's output projection."""

from typing import Any

import torch
import torch.nn.functional as F

from model.layers import fused


def gated_norm(
    y: torch.Tensor, gate: torch.Tensor, weight: torch.Tensor, *, groups: int, eps: float
) -> torch.Tensor:
    """weight * rms_norm(y * silu(gate)) over each of `groups` equal parts -> [B, T, D], of y's type.

    y, gate [B, T, D]; weight [D]. The backward pass keeps y, gate and one number a group. Of y's own type
    where the fused kernel serves.
    """
    if fused.serves("norm", y, y.shape[-1] // groups):
        return fused.part("norm").gated_norm(y, gate, weight, groups=groups, eps=eps)
    return _GatedNorm.apply(y, gate, weight, groups, eps)


class _GatedNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: torch.Tensor, gate: torch.Tensor, weight: torch.Tensor, groups: int, eps: float
    ) -> torch.Tensor:
        gated = F.silu(gate.to(y.dtype)).mul_(y)
        parts = gated.view(*y.shape[:-1], groups, -1)
        scale = parts.square().mean(-1, keepdim=True).add_(eps).rsqrt_()
        ctx.save_for_backward(y, gate, weight, scale)
        return parts.mul_(scale).view(y.shape).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        y, gate, weight, scale = ctx.saved_tensors
        shape = (*y.shape[:-1], scale.shape[-2], -1)
        wide = gate.to(y.dtype)
        act = F.silu(wide)
        gated = (act * y).view(shape)
        normed = gated.mul_(scale)
        grad_weight = (grads[0] * normed.view(y.shape)).sum((0, 1))
        grad = (grads[0] * weight).view(shape)
        inner = (grad * normed).mean(-1, keepdim=True)
        grad_gated = grad.addcmul_(normed, inner, value=-1).mul_(scale).view(y.shape)
        grad_gate = torch.ops.aten.silu_backward(grad_gated * y, wide)
        return grad_gated * act, grad_gate.to(gate.dtype), grad_weight.to(weight.dtype), None, None
