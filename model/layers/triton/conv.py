"""The causal convolution with SiLU of model/layers/conv.py in one kernel a pass."""

from typing import Any

import torch
import triton

from model.layers.triton import conv_kernels, launch

# A tile, and how many of them one program sums the gradients of the taps over.
_TOKENS, _CHANNELS, _STEPS = 32, 64, 8


def conv_silu(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, position: torch.Tensor
) -> torch.Tensor:
    """x [B, T, C], weight [C, K], bias [C] or None -> [B, T, C] of x's type; position [B, T] int32.

    x may be a view of a wider tensor. The backward pass keeps x alone.
    """
    if x.stride(-1) != 1:
        x = x.contiguous()
    return _ConvSilu.apply(x, weight, bias, position.contiguous())


def _numbers(x: torch.Tensor) -> tuple[int, ...]:
    return x.shape[1], x.shape[2], x.stride(0), x.stride(1)


class _ConvSilu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        position: torch.Tensor,
    ) -> torch.Tensor:
        taps = weight.float().contiguous()
        added = taps if bias is None else bias.float().contiguous()  # not read without a bias
        out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        rows, tokens, channels = x.shape
        grid = (rows * triton.cdiv(tokens, _TOKENS), triton.cdiv(channels, _CHANNELS))
        with launch.on(x.device):
            conv_kernels.forward[grid](
                x, taps, added, position, out, *_numbers(x),
                BIAS=bias is not None, TAPS=weight.shape[1], BT=_TOKENS, BC=_CHANNELS, num_warps=4,
            )  # fmt: skip
        ctx.save_for_backward(x, taps, added, position)
        ctx.dtypes = (weight.dtype, bias is not None and bias.dtype)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        x, taps, added, position = ctx.saved_tensors
        rows, tokens, channels = x.shape
        width, pieces = taps.shape[1], triton.cdiv(tokens, _TOKENS * _STEPS)
        grad_x = torch.empty(x.shape, dtype=x.dtype, device=x.device)
        parts = taps.new_empty(rows * pieces, width + 1, channels)
        with launch.on(x.device):
            conv_kernels.backward[(rows * pieces, triton.cdiv(channels, _CHANNELS))](
                x, taps, added, position, grads[0].contiguous(), grad_x, parts, *_numbers(x), pieces,
                BIAS=bool(ctx.dtypes[1]), TAPS=width, BT=_TOKENS, BC=_CHANNELS, STEPS=_STEPS,
                KB=triton.next_power_of_2(width + 1), num_warps=4,
            )  # fmt: skip
        whole = parts.sum(0)
        bias = whole[width].to(ctx.dtypes[1]) if ctx.dtypes[1] else None
        return grad_x, whole[:width].T.to(ctx.dtypes[0]), bias, None
