"""Depthwise causal convolution with SiLU that restarts at every document.

out[t] = silu(bias + sum_s weight[K-1-s] * x[t-s]), s over 0..K-1 with t-s in t's document.
Written as K shifted multiply-adds over [tokens, channels], on a CPU a few documents at a time so
that they stay in the cache: torch's own depthwise conv1d can spend two thirds of a hybrid's CPU training
step in its gradient.
"""

from typing import Any

import torch

from model.layers import fused
from model.layers.blocks import values_at_once
from model.layers.layout import DocumentLayout

_CACHE_VALUES = 1 << 18


def causal_conv_silu(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    layout: DocumentLayout | None = None,
) -> torch.Tensor:
    """x [B, T, C], weight [C, K], bias [C] or None -> [B, T, C], in fp32 (or fp64 for fp64).

    Of x's own type where the fused kernel serves. Without a layout each row is one document. Tokens of one document reach no other, in either
    direction and to the bit: a tap that would cross is dropped, not multiplied by zero.
    """
    if fused.serves("conv", x, weight.shape[1]):
        return fused.part("conv").conv_silu(x, weight, bias, fused.position(x, layout))
    if layout is None:
        rows = torch.zeros(x.shape[:2], dtype=torch.int32, device=x.device)
        layout = DocumentLayout(rows)
    return _ConvSilu.apply(x, weight, bias, layout)


class _Blocks:
    """A few whole documents at a time, nothing of which a tap serves elsewhere: their tokens, and in them
    those a tap may not serve."""

    def __init__(self, layout: DocumentLayout, channels: int, taps: int) -> None:
        most = values_at_once(layout.device, cpu=_CACHE_VALUES) // channels
        self.tokens = layout.spans(most)
        edges = torch.tensor([block.start for block in self.tokens], device=layout.device)
        # heads[s - 1][block]: tokens whose position in their document is below s
        self.heads = []
        for s in range(1, taps):
            inside = layout.heads(s)
            cuts = torch.searchsorted(inside, edges).tolist()[1:]
            parts = inside.tensor_split(cuts)
            self.heads.append([p - b.start for p, b in zip(parts, self.tokens, strict=True)])


class _ConvSilu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        layout: DocumentLayout,
    ) -> torch.Tensor:
        dtype = torch.float64 if x.dtype == torch.float64 else torch.float32
        taps = weight.to(dtype).T.flip(0).contiguous()  # [K, C], tap s looks s tokens back
        flat = x.to(dtype).reshape(-1, x.shape[-1])
        blocks = _Blocks(layout, x.shape[-1], len(taps))
        before_silu = torch.empty(flat.shape, dtype=dtype, device=x.device)
        after = torch.empty_like(before_silu)
        for i, tokens in enumerate(blocks.tokens):
            out, source = before_silu[tokens], flat[tokens]
            for s in range(len(taps) - 1, 0, -1):
                if s == len(taps) - 1:
                    torch.mul(source[:-s], taps[s], out=out[s:])
                else:
                    out[s:].addcmul_(source[:-s], taps[s])
                # Tokens that a tap of s may not serve: so far they hold only longer taps, which
                # may not serve them either. Filling drops NaN and inf too.
                out.index_fill_(0, blocks.heads[s - 1][i], 0.0)
            out.addcmul_(source, taps[0])
            if bias is not None:
                out += bias
            torch.ops.aten.silu.out(out, out=after[tokens])
        ctx.save_for_backward(flat, taps, before_silu)
        ctx.blocks = blocks
        ctx.dtypes = (x.dtype, weight.dtype, bias is not None and bias.dtype)
        return after.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        flat, taps, before_silu = ctx.saved_tensors
        upstream = grads[0].reshape(flat.shape)
        grad_bias = torch.zeros_like(taps[0])
        grad_taps, grad_x = torch.zeros_like(taps), torch.empty_like(flat)
        for i, tokens in enumerate(ctx.blocks.tokens):
            source, out = flat[tokens], grad_x[tokens]
            grad = torch.ops.aten.silu_backward(upstream[tokens], before_silu[tokens])
            grad_bias += grad.sum(0)
            torch.mul(grad, taps[0], out=out)
            product = grad * source
            grad_taps[0] += product.sum(0)
            for s in range(1, len(taps)):
                grad.index_fill_(0, ctx.blocks.heads[s - 1][i], 0.0)
                out[:-s].addcmul_(grad[s:], taps[s])
                grad_taps[s] += torch.mul(grad[s:], source[:-s], out=product[s:]).sum(0)
        return (
            grad_x.view(grads[0].shape).to(ctx.dtypes[0]),
            grad_taps.flip(0).T.to(ctx.dtypes[1]),
            grad_bias.to(ctx.dtypes[2]) if ctx.dtypes[2] else None,
            None,
        )
