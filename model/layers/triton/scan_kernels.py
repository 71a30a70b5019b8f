"""Kernels of the document scan; `model.layers.triton.scan` calls them. The recurrence is in model/layers/scan.py.

Documents are told by one number a token: `position`, its place in its document. Token s of a chunk reaches
token l of it where 0 <= l - s <= position[l]; the state before the chunk reaches l where position[l] > l.
What may not be reached is dropped by `where`, never multiplied by zero. A decay between two tokens is the sum
of the logarithms between them, never a difference of sums: exact where decays are strong, and nothing of
another document is in it.

Offsets of tiles are counted in 64 bits, and only what lies inside a tile in 32. The states and all sums are fp32; products take their factors in DOT (bf16, fp16, or fp32 with
PRECISION). Nothing is added atomically: the same input gives the same bits. Lengths are not
specialised on: another row is not another compilation.

Legend: L tokens a chunk, P head_dim, N state size; PT a tile of P, NB the power of two that holds N; `padded`
tokens of whole chunks. HALF_HERE: whether products of half-precision factors are to be worked out in fp32
(Triton's interpreter multiplies the bits of bf16 as if they were whole numbers).
"""

# fmt: off
# A call with twelve arguments reads better on one line than on twelve.
import triton
import triton.language as tl


@triton.jit
def _dot(a, b, DOT: tl.constexpr, PRECISION: tl.constexpr, HALF_HERE: tl.constexpr):
    a, b = a.to(DOT), b.to(DOT)
    if HALF_HERE:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision=PRECISION)


@triton.jit
def _inside(at, position):
    """[L, L]: whether the second token may reach the first."""
    apart = at[:, None] - at[None, :]
    return (apart >= 0) & (apart <= position[:, None])


@triton.jit
def _positions(position, row, first, tokens, L: tl.constexpr):
    """[L] of one chunk; a padded token is a document of its own."""
    at = tl.arange(0, L)
    return tl.load(position + (row * tokens + first) + at, mask=first + at < tokens, other=0)


@triton.jit
def _tile(source, row, first, column, width, tokens, stride_row, stride_token, L: tl.constexpr, W: tl.constexpr):
    """Pointers and mask of tokens first..first+L, values column..column+width of each."""
    at, of = tl.arange(0, L), tl.arange(0, W)
    start = source + (row * stride_row + first * stride_token + column)
    here = at[:, None] * stride_token + of[None, :]
    return start + here, (first + at < tokens)[:, None] & (of < width)[None, :]


@triton.jit
def _load(source, row, first, column, width, tokens, stride_row, stride_token, L: tl.constexpr, W: tl.constexpr):
    """[L, W]: 0 beyond the row's tokens and the width."""
    where, mask = _tile(source, row, first, column, width, tokens, stride_row, stride_token, L, W)
    return tl.load(where, mask=mask, other=0.0)


@triton.jit
def _store(value, target, row, first, column, width, tokens, stride_row, stride_token, L: tl.constexpr, W: tl.constexpr):
    where, mask = _tile(target, row, first, column, width, tokens, stride_row, stride_token, L, W)
    tl.store(where, value, mask=mask)


@triton.jit
def _pair_decays(log_decay, inside, at):
    """[L, L]: decay from the second token to the first, 0 where it may not be reached."""
    after = at[None, :] < at[:, None]
    between = tl.cumsum(tl.where(after, log_decay[:, None], 0.0), 0)
    return tl.where(inside, tl.exp2(tl.where(inside, between, float("-inf"))), 0.0)


@triton.jit(do_not_specialize=["tokens"])
def decays(log_decay, position, entering, leaving, through, heads, tokens, padded, L: tl.constexpr):
    """How much of the state before its chunk reaches a token, of a token the state after, of one state the other.

    log_decay, entering, leaving [B, H, padded]; through [B, H, chunks]; position [B, T]. 0 where nothing
    reaches. Grid: (B * chunks, H).
    """
    number = tl.program_id(0).to(tl.int64)
    chunks = padded // L
    row, chunk = number // chunks, number % chunks
    first, last = chunk * L, chunk * L + L - 1
    at = tl.arange(0, L)
    place = _positions(position, row, first, tokens, L)
    end = tl.load(position + (row * tokens + last), mask=last < tokens, other=0)
    series = row * heads + tl.program_id(1)
    base = series * padded + first
    values = tl.load(log_decay + base + at)
    before = tl.sum(tl.where(_inside(at, place), values[None, :], 0.0), 1)
    after = tl.sum(tl.where(at[None, :] > at[:, None], values[None, :], 0.0), 1)
    tl.store(entering + base + at, tl.where(place > at, tl.exp2(before), 0.0))
    tl.store(leaving + base + at, tl.where(at >= L - 1 - end, tl.exp2(after), 0.0))
    tl.store(through + series * chunks + chunk, tl.where(end >= L, tl.exp2(tl.sum(values)), 0.0))


@triton.jit(do_not_specialize=["tokens", "first_chunk", "last_chunk"])
def states_before(
    xbc, dt, leaving, through, states, carry,
    stride_row, stride_token, tokens, padded, heads, head_dim, groups, state, first_chunk, last_chunk,
    L: tl.constexpr, PT: tl.constexpr, NB: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, HALF_HERE: tl.constexpr,
):
    """states [B, C, H, P, N]: the state before each chunk first..last; carry [B, H, P, N] enters and leaves.

    Grid: (B * H, tiles of P).
    """
    series, p0 = tl.program_id(0).to(tl.int64), tl.program_id(1) * PT
    row, head = series // heads, series % heads
    at, n, p = tl.arange(0, L), tl.arange(0, NB), p0 + tl.arange(0, PT)
    tile = p[:, None] * state + n[None, :]
    inside = (p < head_dim)[:, None] & (n < state)[None, :]
    one = head_dim * state
    before = tl.load(carry + series * one + tile, mask=inside, other=0.0)
    b0 = heads * head_dim + head // (heads // groups) * state
    slot = (row * (last_chunk - first_chunk) * heads + head) * one
    first = series * 0 + first_chunk * L  # 64 bits
    for _ in range(0, last_chunk - first_chunk):
        tl.store(states + slot + tile, before, mask=inside)
        here = series * padded + first
        weight = tl.load(leaving + here + at)
        step = tl.load(dt + here + at)
        x = _load(xbc, row, first, head * head_dim + p0, head_dim - p0, tokens, stride_row, stride_token, L, PT).to(tl.float32)
        b = _load(xbc, row, first, b0, state, tokens, stride_row, stride_token, L, NB)
        x = tl.where((weight > 0)[:, None], x * (step * weight)[:, None], 0.0)
        before = before * tl.load(through + here // L)
        before += _dot(tl.trans(x), b, DOT, PRECISION, HALF_HERE)
        first += L
        slot += heads * one
    tl.store(carry + series * one + tile, before, mask=inside)


@triton.jit(do_not_specialize=["tokens", "first_chunk", "chunks", "splits"])
def outputs(
    xbc, dt, log_decay, entering, position, states, skip, y,
    stride_row, stride_token, tokens, padded, heads, head_dim, groups, state, first_chunk, chunks, splits,
    L: tl.constexpr, PT: tl.constexpr, NB: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, HALF_HERE: tl.constexpr,
):
    """y [B, T, H * P] of `chunks` chunks from first_chunk, from what is in the chunk and from the state before it.

    Grid: (B * chunks, groups * splits): the heads of a group are shared out over `splits` programs.
    """
    chunk = tl.program_id(0).to(tl.int64)
    row, first = chunk // chunks, (chunk % chunks + first_chunk) * L
    group, split = tl.program_id(1).to(tl.int64) // splits, tl.program_id(1) % splits
    each, width = heads // groups, heads * head_dim
    share = (each + splits - 1) // splits
    at, n = tl.arange(0, L), tl.arange(0, NB)
    inside = _inside(at, _positions(position, row, first, tokens, L))
    b0 = width + group * state
    b = _load(xbc, row, first, b0, state, tokens, stride_row, stride_token, L, NB)
    c = _load(xbc, row, first, b0 + groups * state, state, tokens, stride_row, stride_token, L, NB)
    scores = _dot(c, tl.trans(b), DOT, PRECISION, HALF_HERE)
    for number in range(split * share, tl.minimum((split + 1) * share, each)):
        head = group * each + number
        here = (row * heads + head) * padded + first
        step, enters = tl.load(dt + here + at), tl.load(entering + here + at)
        weights = scores * _pair_decays(tl.load(log_decay + here + at), inside, at)
        weights = tl.where(inside, weights, 0.0)
        passed = tl.load(skip + head)
        for p0 in range(0, head_dim, PT):
            column, rest = head * head_dim + p0, head_dim - p0
            x = _load(xbc, row, first, column, rest, tokens, stride_row, stride_token, L, PT).to(tl.float32)
            p = p0 + tl.arange(0, PT)
            tile = (chunk * heads + head) * head_dim * state + (p[:, None] * state + n[None, :])
            before = tl.load(states + tile, mask=(p < head_dim)[:, None] & (n < state)[None, :], other=0.0)
            carried = _dot(c, tl.trans(before), DOT, PRECISION, HALF_HERE)
            out = _dot(weights, x * step[:, None], DOT, PRECISION, HALF_HERE)
            out += tl.where((enters > 0)[:, None], carried * enters[:, None], 0.0) + x * passed
            _store(out, y, row, first, column, rest, tokens, tokens * width, width, L, PT)


@triton.jit(do_not_specialize=["tokens", "first_chunk", "last_chunk"])
def grads_after(
    xbc, entering, through, grad_y, grads, carry,
    stride_row, stride_token, tokens, padded, heads, head_dim, groups, state, first_chunk, last_chunk,
    L: tl.constexpr, PT: tl.constexpr, NB: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, HALF_HERE: tl.constexpr,
):
    """grads [B, C, H, P, N]: gradient of the state after each chunk; carry [B, H, P, N] comes from the last.

    Walks from last_chunk back to first_chunk. Grid: (B * H, tiles of P).
    """
    series, p0 = tl.program_id(0).to(tl.int64), tl.program_id(1) * PT
    row, head = series // heads, series % heads
    at, n, p = tl.arange(0, L), tl.arange(0, NB), p0 + tl.arange(0, PT)
    tile = p[:, None] * state + n[None, :]
    inside = (p < head_dim)[:, None] & (n < state)[None, :]
    one, width = head_dim * state, heads * head_dim
    after = tl.load(carry + series * one + tile, mask=inside, other=0.0)
    c0 = width + (groups + head // (heads // groups)) * state
    slot = ((row + 1) * (last_chunk - first_chunk) * heads + head) * one
    first = series * 0 + last_chunk * L  # 64 bits
    for _ in range(0, last_chunk - first_chunk):
        first -= L
        slot -= heads * one
        tl.store(grads + slot + tile, after, mask=inside)
        here = series * padded + first
        weight = tl.load(entering + here + at)
        g = _load(grad_y, row, first, head * head_dim + p0, head_dim - p0, tokens, tokens * width, width, L, PT).to(tl.float32)
        c = _load(xbc, row, first, c0, state, tokens, stride_row, stride_token, L, NB)
        g = tl.where((weight > 0)[:, None], g * weight[:, None], 0.0)
        after = after * tl.load(through + here // L)
        after += _dot(tl.trans(g), c, DOT, PRECISION, HALF_HERE)
    tl.store(carry + series * one + tile, after, mask=inside)


@triton.jit
def _decay_gradient(pairs, reached, left, whole, inside, at):
    """[L]: gradient of each token's log2 decay, but for the factor of exp2.

    pairs [L, L]: what (reached token, reaching token) pass to the decays between them. Each decay's sum
    holds those pairs only, so nothing large is subtracted. reached: gradients of the decays up to a token,
    left: of those from a token to the chunk's end, whole: of the chunk's.
    """
    later, earlier = at[:, None], at[None, :]
    from_later = tl.cumsum(pairs, 0, reverse=True)
    grad = tl.sum(tl.where(earlier < later, from_later, 0.0), 1)
    grad += tl.sum(tl.where(inside, reached[:, None], 0.0), 0)
    # A token that leaves the chunk passes the decays of all tokens after it.
    grad += tl.sum(tl.where(earlier < later, left[None, :], 0.0), 1)
    return grad + whole


@triton.jit(do_not_specialize=["tokens", "first_chunk", "chunks", "splits"])
def gradients(
    xbc, dt, log_decay, entering, leaving, through, position, states, grads, skip, grad_y,
    grad_xbc, grad_bc, grad_dt, grad_log, grad_skip,
    stride_row, stride_token, tokens, padded, heads, head_dim, groups, state, first_chunk, chunks, splits,
    L: tl.constexpr, PT: tl.constexpr, NB: tl.constexpr,
    DOT: tl.constexpr, PRECISION: tl.constexpr, HALF_HERE: tl.constexpr,
):
    """All gradients of `chunks` chunks from first_chunk. Grid: (B * chunks, groups * splits).

    grad_xbc [B, T, H * P + 2 * G * N]: its x is filled here. grad_bc [splits, B, T, 2 * G * N], fp32: the
    share of a split's heads. grad_dt (not by way of the decays), grad_log [B, H, padded]; grad_skip
    [B, H, padded / L].
    """
    chunk = tl.program_id(0).to(tl.int64)
    row, first = chunk // chunks, (chunk % chunks + first_chunk) * L
    group, split = tl.program_id(1).to(tl.int64) // splits, tl.program_id(1) % splits
    each, width = heads // groups, heads * head_dim
    share, wide = (each + splits - 1) // splits, width + 2 * groups * state
    at, n = tl.arange(0, L), tl.arange(0, NB)
    inside = _inside(at, _positions(position, row, first, tokens, L))
    b0 = width + group * state
    b = _load(xbc, row, first, b0, state, tokens, stride_row, stride_token, L, NB)
    c = _load(xbc, row, first, b0 + groups * state, state, tokens, stride_row, stride_token, L, NB)
    scores = _dot(c, tl.trans(b), DOT, PRECISION, HALF_HERE)
    grad_scores = tl.zeros([L, L], tl.float32)
    grad_b, grad_c = tl.zeros([L, NB], tl.float32), tl.zeros([L, NB], tl.float32)
    for number in range(split * share, tl.minimum((split + 1) * share, each)):
        head = group * each + number
        here = (row * heads + head) * padded + first
        step, passed, kept = tl.load(dt + here + at), tl.load(skip + head), tl.load(through + here // L)
        enters, leaves = tl.load(entering + here + at), tl.load(leaving + here + at)
        decay = _pair_decays(tl.load(log_decay + here + at), inside, at)
        pairs, whole, of_skip = tl.zeros([L, L], tl.float32), tl.zeros([NB], tl.float32), tl.zeros([L], tl.float32)
        reached, left, of_dt = tl.zeros([L], tl.float32), tl.zeros([L], tl.float32), tl.zeros([L], tl.float32)
        for p0 in range(0, head_dim, PT):
            column, rest = head * head_dim + p0, head_dim - p0
            x = _load(xbc, row, first, column, rest, tokens, stride_row, stride_token, L, PT).to(tl.float32)
            g = _load(grad_y, row, first, column, rest, tokens, tokens * width, width, L, PT).to(tl.float32)
            p = p0 + tl.arange(0, PT)
            tile = (chunk * heads + head) * head_dim * state + (p[:, None] * state + n[None, :])
            within = (p < head_dim)[:, None] & (n < state)[None, :]
            before = tl.load(states + tile, mask=within, other=0.0)
            after = tl.load(grads + tile, mask=within, other=0.0)
            whole += tl.sum(before * after, 0)
            read = tl.where((enters > 0)[:, None], g * enters[:, None], 0.0)
            reached += tl.sum(read * _dot(c, tl.trans(before), DOT, PRECISION, HALF_HERE), 1)
            grad_c += _dot(read, before, DOT, PRECISION, HALF_HERE)
            pairs += _dot(g, tl.trans(x * step[:, None]), DOT, PRECISION, HALF_HERE)
            written = tl.where((leaves > 0)[:, None], x * (step * leaves)[:, None], 0.0)
            grad_b += _dot(written, after, DOT, PRECISION, HALF_HERE)
            grad = tl.where((leaves > 0)[:, None], _dot(b, tl.trans(after), DOT, PRECISION, HALF_HERE), 0.0)
            left += tl.sum(written * grad, 1)
            grad = grad * leaves[:, None] + _dot(tl.trans(scores * decay), g, DOT, PRECISION, HALF_HERE)
            of_dt += tl.sum(grad * x, 1)
            of_skip += tl.sum(g * x, 1)
            _store(grad * step[:, None] + g * passed, grad_xbc, row, first, column, rest, tokens, tokens * wide, wide, L, PT)
        pairs = tl.where(inside, pairs * decay, 0.0)
        grad_scores += pairs
        log = _decay_gradient(pairs * scores, reached, left, tl.sum(whole) * kept, inside, at)
        tl.store(grad_dt + here + at, of_dt)
        tl.store(grad_log + here + at, log * 0.6931471805599453)  # of exp2
        tl.store(grad_skip + here // L, tl.sum(of_skip))
    grad_b += _dot(tl.trans(grad_scores), c, DOT, PRECISION, HALF_HERE)
    grad_c += _dot(grad_scores, b, DOT, PRECISION, HALF_HERE)
    both = 2 * groups * state
    part = grad_bc + split.to(tl.int64) * (tl.num_programs(0) // chunks) * tokens * both
    _store(grad_b, part, row, first, group * state, state, tokens, tokens * both, both, L, NB)
    _store(grad_c, part, row, first, (groups + group) * state, state, tokens, tokens * both, both, L, NB)
