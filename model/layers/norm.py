"""RMSNorm in one pass over memory, forward and backward."""

from typing import Any

import torch
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHRMSNorm

from model.layers import fused
from model.layers.blocks import row_blocks


class FusedRMSNorm(NemotronHRMSNorm):
    """transformers' layer, same parameters. Keeps its input and one number a token."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[..., D] -> [..., D] of the same type; worked out in fp32."""
        if fused.serves("norm", hidden_states, hidden_states.shape[-1]):
            return fused.part("norm").rms_norm(hidden_states, self.weight, self.variance_epsilon)
        if hidden_states.dtype != torch.float32 or self.weight.dtype != torch.float32:
            return super().forward(hidden_states)
        return _RMSNorm.apply(hidden_states, self.weight, self.variance_epsilon)


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        out, scale = torch.empty_like(flat), flat.new_empty(len(flat), 1)
        for rows in row_blocks(len(flat), flat.shape[1], x.device):
            part = flat[rows]
            torch.mul(part, part, out=out[rows])
            torch.mean(out[rows], -1, keepdim=True, out=scale[rows])
            scale[rows].add_(eps).rsqrt_()
            torch.mul(part, scale[rows], out=out[rows]).mul_(weight)
        ctx.save_for_backward(flat, weight, scale)
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        flat, weight, scale = ctx.saved_tensors
        upstream = grads[0].reshape(flat.shape)
        grad_x, grad_weight = torch.empty_like(flat), torch.zeros_like(weight)
        for rows in row_blocks(len(flat), flat.shape[1], flat.device):
            out, factor = grad_x[rows], scale[rows]
            normed = flat[rows] * factor
            torch.mul(upstream[rows], normed, out=out)
            grad_weight += out.sum(0)
            inner = torch.mv(out, weight).div_(-flat.shape[1]).unsqueeze(1)
            torch.mul(upstream[rows], weight, out=out).addcmul_(normed, inner).mul_(factor)
        return grad_x.view(grads[0].shape), grad_weight, None
