"""Kernels of RMSNorm over equal parts of a row, with or without a gate; `model.layers.triton.norm` calls them.

out = weight * v / rms(v), v = x * silu(gate), or x where GATE is false. Worked out in fp32. Offsets of rows
are counted in 64 bits.

Legend: a part has `width` values, W the power of two that holds them; ROWS rows a tile.
"""

# fmt: off
# A call with ten arguments reads better on one line than on ten.
import triton
import triton.language as tl


@triton.jit
def _values(x, gate, at, of, inside, tokens, row_width, stride_row, stride_token, GATE: tl.constexpr):
    """x, gate and v [ROWS, W]; the gate is a view with a row of T tokens at each stride_row."""
    v = tl.load(x + at[:, None] * row_width + of[None, :], mask=inside, other=0.0).to(tl.float32)
    g = v
    if GATE:
        start = at // tokens * stride_row + at % tokens * stride_token
        g = tl.load(gate + start[:, None] + of[None, :], mask=inside, other=0.0).to(tl.float32)
        return v, g, v * g * tl.sigmoid(g)
    return v, g, v


@triton.jit(do_not_specialize=["rows", "tokens"])
def forward(
    x, gate, weight, out, rows, tokens, row_width, width, stride_row, stride_token, eps,
    GATE: tl.constexpr, ROWS: tl.constexpr, W: tl.constexpr,
):
    """x, out [rows, row_width], contiguous. Grid: (tiles of rows, parts)."""
    at = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    part, of = tl.program_id(1) * width, tl.arange(0, W)
    inside = (at < rows)[:, None] & (of < width)[None, :]
    _, _, v = _values(x, gate, at, part + of, inside, tokens, row_width, stride_row, stride_token, GATE)
    scale = tl.rsqrt(tl.sum(v * v, 1) / width + eps)
    factor = tl.load(weight + (part + of), mask=of < width, other=0.0).to(tl.float32)
    tl.store(out + at[:, None] * row_width + (part + of)[None, :], v * scale[:, None] * factor[None, :], mask=inside)


@triton.jit(do_not_specialize=["rows", "tokens"])
def backward(
    x, gate, weight, grad_out, grad_x, grad_gate, grad_weight,
    rows, tokens, row_width, width, stride_row, stride_token, eps,
    GATE: tl.constexpr, ROWS: tl.constexpr, W: tl.constexpr, STEPS: tl.constexpr,
):
    """grad_x, grad_gate [rows, row_width], contiguous; grad_weight [pieces, row_width]: a sum over STEPS tiles.

    Grid: (pieces, parts).
    """
    piece = tl.program_id(0).to(tl.int64)
    at = piece * (ROWS * STEPS) + tl.arange(0, ROWS)
    part, of = tl.program_id(1) * width, tl.arange(0, W)
    factor = tl.load(weight + (part + of), mask=of < width, other=0.0).to(tl.float32)
    summed = tl.zeros([W], tl.float32)
    for _ in range(0, STEPS):
        inside = (at < rows)[:, None] & (of < width)[None, :]
        y, g, v = _values(x, gate, at, part + of, inside, tokens, row_width, stride_row, stride_token, GATE)
        here = at[:, None] * row_width + (part + of)[None, :]
        grad = tl.load(grad_out + here, mask=inside, other=0.0).to(tl.float32)
        scale = tl.rsqrt(tl.sum(v * v, 1) / width + eps)
        normed = v * scale[:, None]
        summed += tl.sum(grad * normed, 0)
        grad = grad * factor[None, :]
        grad = (grad - normed * (tl.sum(grad * normed, 1) / width)[:, None]) * scale[:, None]
        if GATE:
            opened = tl.sigmoid(g)
            tl.store(grad_gate + here, grad * y * opened * (1 + g * (1 - opened)), mask=inside)
            grad = grad * g * opened
        tl.store(grad_x + here, grad, mask=inside)
        at += ROWS
    tl.store(grad_weight + (piece * row_width + part) + of, summed, mask=of < width)
