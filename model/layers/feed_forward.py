"""NemotronH's feed-forward layer, down(relu(up(x)) ** 2), with its activation in the cache.

The wide activation is made, squared and used up a few tokens at a time; the backward pass keeps
only relu(up(x)).
"""

from typing import Any

import torch
from transformers.activations import ACT2FN
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMLP

from model.layers.blocks import row_blocks

_SQUARED_RELU = type(ACT2FN["relu2"])


class FusedFeedForward(NemotronHMLP):
    """transformers' layer, same parameters. Anything but plain fp32 goes through its own code."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., hidden] -> [..., hidden]."""
        if not self._plain(x):
            return super().forward(x)
        return _SquaredReluMLP.apply(x, self.up_proj.weight, self.down_proj.weight)

    def _plain(self, x: torch.Tensor) -> bool:
        layers = (self.up_proj, self.down_proj)
        return (
            x.device.type == "cpu"
            and not torch.is_autocast_enabled("cpu")
            and type(self.act_fn) is _SQUARED_RELU
            # Not an adapter around a layer, whose forward pass does more.
            and all(type(layer) is torch.nn.Linear and layer.bias is None for layer in layers)
            and all(v.dtype == torch.float32 for v in (x, *(layer.weight for layer in layers)))
        )


class _SquaredReluMLP(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        active = flat.new_empty(len(flat), len(up))
        out = flat.new_empty(len(flat), len(down))
        for rows in row_blocks(len(flat), len(up), x.device):
            torch.mm(flat[rows], up.T, out=active[rows])
            active[rows].relu_()
            torch.mm(active[rows].square(), down.T, out=out[rows])
        ctx.save_for_backward(flat, up, down, active)
        return out.view(*x.shape[:-1], len(down))

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        flat, up, down, active = ctx.saved_tensors
        upstream = grads[0].reshape(len(flat), -1)
        grad_up, grad_down = torch.zeros_like(up), torch.zeros_like(down)
        grad_x = torch.empty_like(flat)
        for rows in row_blocks(len(flat), len(up), flat.device):
            here = active[rows]
            grad_down.addmm_(upstream[rows].T, here.square())
            # d relu(h)^2 / dh = 2 relu(h)
            grad_active = torch.mm(upstream[rows], down).mul_(here)
            grad_up.addmm_(grad_active.T, flat[rows])
            torch.mm(grad_active, up, out=grad_x[rows])
        shape = (*grads[0].shape[:-1], flat.shape[1])
        return grad_x.mul_(2).view(shape), grad_up.mul_(2), grad_down
