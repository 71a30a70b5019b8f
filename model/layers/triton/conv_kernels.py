"""Kernels of the causal convolution with SiLU; `model.layers.triton.conv` calls them.

pre[t] = bias + sum_s weight[K-1-s] * x[t-s] over s with s <= position[t]: a tap that would reach into the
document before is not read. Worked out in fp32. Offsets of rows and tokens are counted in 64 bits.

Legend: BT tokens by BC channels a tile, TAPS = K, KB the power of two that holds K.
"""

# fmt: off
# A call with ten arguments reads better on one line than on ten.
import triton
import triton.language as tl


@triton.jit
def _source(x, row, at, back, place, channel, tokens, channels, stride_row, stride_token):
    """[BT, BC] in fp32: x of the token `back` places before each token of `at`, 0 outside its document."""
    served = (at < tokens) & (at >= back) & (place >= back)
    here = x + row * stride_row + (at - back)[:, None] * stride_token + channel[None, :]
    return tl.load(here, mask=served[:, None] & (channel < channels)[None, :], other=0.0).to(tl.float32)


@triton.jit
def _before_silu(
    x, weight, bias, row, at, place, channel, tokens, channels, stride_row, stride_token,
    BIAS: tl.constexpr, TAPS: tl.constexpr,
):
    out = _source(x, row, at, 0, place, channel, tokens, channels, stride_row, stride_token)
    out *= tl.load(weight + channel * TAPS + TAPS - 1, mask=channel < channels, other=0.0)[None, :]
    for back in tl.static_range(1, TAPS):
        tap = tl.load(weight + channel * TAPS + TAPS - 1 - back, mask=channel < channels, other=0.0)
        out += _source(x, row, at, back, place, channel, tokens, channels, stride_row, stride_token) * tap[None, :]
    if BIAS:
        out += tl.load(bias + channel, mask=channel < channels, other=0.0)[None, :]
    return out


@triton.jit(do_not_specialize=["tokens"])
def forward(
    x, weight, bias, position, out, tokens, channels, stride_row, stride_token,
    BIAS: tl.constexpr, TAPS: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):
    """out [B, T, C], contiguous. weight [C, K] and bias [C] in fp32. Grid: (B * tiles of T, tiles of C)."""
    number, tiles = tl.program_id(0).to(tl.int64), tl.cdiv(tokens, BT)
    row, at = number // tiles, number % tiles * BT + tl.arange(0, BT)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    place = tl.load(position + row * tokens + at, mask=at < tokens, other=0)
    pre = _before_silu(
        x, weight, bias, row, at, place, channel, tokens, channels, stride_row, stride_token, BIAS, TAPS)
    here = out + (row * tokens + at)[:, None] * channels + channel[None, :]
    tl.store(here, pre * tl.sigmoid(pre), mask=(at < tokens)[:, None] & (channel < channels)[None, :])


@triton.jit
def _grad_before_silu(
    x, weight, bias, position, grad_out, row, at, channel, tokens, channels, stride_row, stride_token,
    BIAS: tl.constexpr, TAPS: tl.constexpr,
):
    """Gradient of `pre` at tokens `at`, which are read anew, and their places; 0 beyond the row."""
    place = tl.load(position + row * tokens + at, mask=at < tokens, other=-1)
    pre = _before_silu(
        x, weight, bias, row, at, place, channel, tokens, channels, stride_row, stride_token, BIAS, TAPS)
    here = grad_out + (row * tokens + at)[:, None] * channels + channel[None, :]
    grad = tl.load(here, mask=(at < tokens)[:, None] & (channel < channels)[None, :], other=0.0).to(tl.float32)
    gate = tl.sigmoid(pre)
    return grad * gate * (1 + pre * (1 - gate)), place


@triton.jit(do_not_specialize=["tokens", "pieces"])
def backward(
    x, weight, bias, position, grad_out, grad_x, grad_taps,
    tokens, channels, stride_row, stride_token, pieces,
    BIAS: tl.constexpr, TAPS: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, STEPS: tl.constexpr, KB: tl.constexpr,
):
    """grad_x [B, T, C], contiguous; grad_taps [B * pieces, K + 1, C] in fp32: of the taps, the bias last.

    A piece is STEPS tiles of tokens, whose sum one program makes. Grid: (B * pieces, tiles of C).
    """
    number = tl.program_id(0).to(tl.int64)
    row, first = number // pieces, number % pieces * (BT * STEPS)
    channel, tap = tl.program_id(1) * BC + tl.arange(0, BC), tl.arange(0, KB)
    taps = tl.zeros([KB, BC], tl.float32)
    at = first + tl.arange(0, BT)
    for _ in range(0, STEPS):
        grad, place = _grad_before_silu(
            x, weight, bias, position, grad_out, row, at, channel, tokens, channels, stride_row, stride_token, BIAS, TAPS)
        taps += tl.where((tap == TAPS)[:, None], tl.sum(grad, 0)[None, :], 0.0)
        out = grad * tl.load(weight + channel * TAPS + TAPS - 1, mask=channel < channels, other=0.0)[None, :]
        for back in tl.static_range(0, TAPS):
            source = _source(x, row, at, back, place, channel, tokens, channels, stride_row, stride_token)
            taps += tl.where((tap == TAPS - 1 - back)[:, None], tl.sum(grad * source, 0)[None, :], 0.0)
        for ahead in tl.static_range(1, TAPS):
            later, its = _grad_before_silu(
                x, weight, bias, position, grad_out, row, at + ahead, channel, tokens, channels,
                stride_row, stride_token, BIAS, TAPS)
            factor = tl.load(weight + channel * TAPS + TAPS - 1 - ahead, mask=channel < channels, other=0.0)
            out += tl.where((its >= ahead)[:, None], later * factor[None, :], 0.0)
        here = grad_x + (row * tokens + at)[:, None] * channels + channel[None, :]
        tl.store(here, out, mask=(at < tokens)[:, None] & (channel < channels)[None, :])
        at += BT
    here = grad_taps + number * (TAPS + 1) * channels + tap[:, None] * channels + channel[None, :]
    tl.store(here, taps, mask=(tap <= TAPS)[:, None] & (channel < channels)[None, :])
