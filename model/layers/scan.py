"""Mamba-2's chunked scan (state-space duality) in torch operations, isolating documents.

For one head, with a_t = exp(A * dt_t):  S_t = a_t * S_{t-1} + dt_t * B_t x_t^T,  y_t = C_t S_t
+ D * x_t, and S = 0 at the first token of a document. Dao and Gu, arXiv 2405.21060, section 6.

Decays are sums of logarithms that restart at each document, so that nothing of another document
enters them, not even a rounding; what may not be reached is exp2(-inf) = 0. Logarithms are of
base 2 because exp2 is the one exponential that is not slowed down by zeros on the CPU (MKL's
exp takes up to fifty times longer where the result underflows).

Chunks are walked in blocks that fit the device (a CPU's cache, a GPU's memory); the backward pass
recomputes what is quadratic in the chunk and keeps only one state a chunk.

Legend: B rows, C chunks, L tokens a chunk, G groups, K heads a group, H = G * K heads,
P head_dim, N state size.
"""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F

from model.layers import fused
from model.layers.blocks import values_at_once
from model.layers.layout import DocumentLayout, ScanMasks, causal_masks

# The quadratic part of a chunk grows with its length, and the states shrink with it. On the CPU 32
# and 64 are within a few percent of each other for head_dim and state size of 32 to 128. On a GPU
# longer chunks mean fewer kernels, and a quarter of the saved states.
_CPU_CHUNK_TOKENS, _GPU_CHUNK_TOKENS = 32, 128
LOG2_E = math.log2(math.e)
# Values of the quadratic part worked on at once by a CPU, so that a block stays in the L2 cache.
_CACHE_VALUES = 1 << 17


def chunk_tokens(device: torch.device) -> int:
    """Tokens of a chunk on this device."""
    return _CPU_CHUNK_TOKENS if device.type == "cpu" else _GPU_CHUNK_TOKENS


class Sizes(NamedTuple):
    """Head counts and widths of one Mamba-2 layer."""

    heads: int
    head_dim: int
    groups: int
    state: int


def chunk_scan(
    xbc: torch.Tensor,
    dt: torch.Tensor,
    a: torch.Tensor,
    d: torch.Tensor,
    sizes: Sizes,
    *,
    layout: DocumentLayout | None = None,
    chunk: int | None = None,
) -> torch.Tensor:
    """The scan over packed rows -> y [B, T, H * P], in fp32 (fp64 for fp64).

    xbc [B, T, H*P + 2*G*N]: x, B and C side by side, as they leave the convolution.
    dt [B, T, H]: time steps, after softplus. a [H]: negative decay rates. d [H]: skip weights.
    chunk: tokens of a chunk; None: `chunk_tokens` of the device.
    Autocast does not apply: states and sums are always fp32. Where the fused kernel serves, y has the
    type of xbc, which its products' factors are rounded to.
    """
    with torch.autocast(xbc.device.type, enabled=False):
        if chunk is None and fused.serves("scan", xbc, sizes.head_dim, sizes.state):
            log_decay, place = dt.float() * (a.float() * LOG2_E), fused.position(xbc, layout)
            return fused.part("scan").scan(xbc, dt.float(), log_decay, d.float(), sizes, place)
        dtype = torch.float64 if xbc.dtype == torch.float64 else torch.float32
        length = xbc.shape[1]
        chunk = min(chunk or chunk_tokens(xbc.device), length)
        masks = causal_masks(chunk, xbc.device) if layout is None else layout.scan_masks(chunk)
        dt = dt.to(dtype)
        xbc, dt = (F.pad(v.to(dtype), (0, 0, 0, -length % chunk)) for v in (xbc, dt))
        log_decay = dt * (a.to(dtype) * LOG2_E)
        y = _ChunkScan.apply(xbc, dt, log_decay, d.to(dtype), sizes, masks, chunk)
        return y[:, :length]


class _Block:
    """The views and decays of chunks `first`..`last` of all rows, in both passes."""

    def __init__(self, work: "_Work", first: int, last: int) -> None:
        s, tokens = work.sizes, slice(first * work.chunk, last * work.chunk)
        b, c, l = work.batch, last - first, work.chunk  # noqa: E741 - the legend's letter
        self.work, self.chunks, self.tokens = work, slice(first, last), tokens
        self.shape_tokens = (b, c, l, s.groups, s.heads // s.groups, s.head_dim)
        xbc = work.xbc[:, tokens].view(b, c, l, -1)
        inner, state = s.heads * s.head_dim, s.groups * s.state
        self.x = xbc[..., :inner].view(self.shape_tokens)
        split = (b, c, l, s.groups, s.state)
        # [B, C, G, L, N]
        self.b = xbc[..., inner : inner + state].view(split).transpose(2, 3)
        self.c = xbc[..., inner + state :].view(split).transpose(2, 3)
        self.dt = self.per_head(work.dt)
        self.cs = self.per_head(work.cumulative)
        self.entering, self.leaving = self.per_head(work.entering), self.per_head(work.leaving)

    def per_head(self, value: torch.Tensor) -> torch.Tensor:
        """[B, T, H] -> [B, C, L, G, K, 1] of this block."""
        return value[:, self.tokens].view(*self.shape_tokens[:-1], 1)

    def grouped(self, value: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """value [B, C, L, G, K, P] * weight [B, C, L, G, K, 1] -> contiguous [BCG, L, K*P]."""
        b, c, l, g, k, p = self.shape_tokens  # noqa: E741
        out = torch.empty(b, c, g, l, k, p, dtype=value.dtype, device=value.device)
        torch.mul(value.transpose(2, 3), weight.transpose(2, 3), out=out)
        return out.view(b * c * g, l, k * p)

    def by_head(self, value: torch.Tensor, weight: torch.Tensor | None = None) -> torch.Tensor:
        """value [B, C, L, G, K, P], times a weight -> contiguous [BCGK, L, P]."""
        b, c, l, g, k, p = self.shape_tokens  # noqa: E741
        value = value.permute(0, 1, 3, 4, 2, 5)
        if weight is None:
            return value.reshape(b * c * g * k, l, p)
        out = torch.empty(b, c, g, k, l, p, dtype=value.dtype, device=value.device)
        torch.mul(value, weight.permute(0, 1, 3, 4, 2, 5), out=out)
        return out.view(b * c * g * k, l, p)

    def from_heads(self, value: torch.Tensor) -> torch.Tensor:
        """[BCGK, L, P] -> view [B, C, L, G, K, P]."""
        b, c, l, g, k, p = self.shape_tokens  # noqa: E741
        return value.view(b, c, g, k, l, p).permute(0, 1, 4, 2, 3, 5)

    def from_groups(self, value: torch.Tensor, width: int = 0) -> torch.Tensor:
        """[BCG, L, K*P] -> view [B, C, L, G, K, P], or of a width different from P."""
        b, c, l, g, k, p = self.shape_tokens  # noqa: E741
        return value.view(b, c, g, l, k, width or p).transpose(2, 3)

    def decays(self) -> torch.Tensor:
        """[B, C, G, K, L, L]: decay from token s (last) to token l, 0 where s must not reach l."""
        cs = self.cs.squeeze(-1).permute(0, 1, 3, 4, 2).contiguous()
        inside = self.work.masks.inside_bias
        if inside.shape[1] > 1:
            inside = inside[:, self.chunks]
        out = cs[..., :, None] - cs[..., None, :]
        return out.add_(inside[:, :, None, None]).exp2_()

    def matrices(self) -> tuple[torch.Tensor, torch.Tensor]:
        """B and C as contiguous [BCG, L, N]."""
        l, n = self.b.shape[-2:]  # noqa: E741
        return self.b.reshape(-1, l, n), self.c.reshape(-1, l, n)


class _Work:
    """Inputs of one scan and the decays at token level, for the forward and backward pass."""

    def __init__(
        self,
        xbc: torch.Tensor,
        dt: torch.Tensor,
        log_decay: torch.Tensor,
        sizes: Sizes,
        masks: ScanMasks,
        chunk: int,
    ) -> None:
        self.xbc, self.dt, self.sizes, self.masks, self.chunk = xbc, dt, sizes, masks, chunk
        self.batch, tokens, _ = xbc.shape
        self.num_chunks = tokens // chunk
        shape = (self.batch, self.num_chunks, chunk, sizes.heads)
        inside = masks.inside.to(xbc.dtype)
        # Sums that restart at documents: a product with the mask, not a difference of sums.
        cs = torch.matmul(inside, log_decay.view(shape))
        total = cs[:, :, -1:]
        entering, leaving, through = cs, total - cs, total.squeeze(2)
        if masks.entering is not None and masks.leaving is not None and masks.through is not None:
            entering = entering + masks.entering[..., None]
            leaving = leaving + masks.leaving[..., None]
            through = through + masks.through[..., None]
        self.inside, self.cumulative = inside, cs.view(dt.shape)
        self.entering = entering.exp2().view(dt.shape)
        self.leaving = leaving.exp2().view(dt.shape)
        # [B, C, G, 1, K, 1] against states [B, C, G, N, K, P]
        g = sizes.groups
        self.through = through.exp2().view(self.batch, -1, g, 1, sizes.heads // g, 1)

    def state_shape(self, chunks: int) -> tuple[int, ...]:
        s = self.sizes
        return (self.batch, chunks, s.groups, s.state, s.heads // s.groups, s.head_dim)

    def blocks(self) -> list[_Block]:
        per_chunk = self.batch * self.sizes.heads * self.chunk**2
        step = max(1, values_at_once(self.xbc.device, cpu=_CACHE_VALUES) // per_chunk)
        firsts = range(0, self.num_chunks, step)
        return [_Block(self, i, min(i + step, self.num_chunks)) for i in firsts]


class _ChunkScan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        xbc: torch.Tensor,
        dt: torch.Tensor,
        log_decay: torch.Tensor,
        d: torch.Tensor,
        sizes: Sizes,
        masks: ScanMasks,
        chunk: int,
    ) -> torch.Tensor:
        work = _Work(xbc, dt, log_decay, sizes, masks, chunk)
        y = xbc.new_empty(*xbc.shape[:2], sizes.heads * sizes.head_dim)
        carried_y = torch.empty_like(y)  # the part of y that comes from before its chunk
        states = xbc.new_empty(work.state_shape(work.num_chunks))  # before each chunk
        carry = torch.zeros_like(states[:, 0])
        skip = d.view(sizes.groups, -1, 1)
        for block in work.blocks():
            carry = _forward_block(block, states, carry, skip, (y, carried_y))
        ctx.save_for_backward(xbc, dt, log_decay, d, carried_y, states)
        ctx.rest = (sizes, masks, chunk)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        xbc, dt, log_decay, d, carried_y, states = ctx.saved_tensors
        sizes, masks, chunk = ctx.rest
        work = _Work(xbc, dt, log_decay, sizes, masks, chunk)
        out = _Gradients(work, d, carried_y, grads[0].contiguous(), states)
        for block in reversed(work.blocks()):
            out.add_block(block)
        grad_log = out.log_decay().mul_(math.log(2))  # of exp2
        return out.xbc, out.dt, grad_log, out.skip.sum((0, 1)), None, None, None


def _forward_block(
    block: _Block,
    states: torch.Tensor,
    carry: torch.Tensor,
    skip: torch.Tensor,
    out: tuple[torch.Tensor, torch.Tensor],
) -> torch.Tensor:
    """Fill y, its carried part and the states before the chunks; returns the state after."""
    work = block.work
    n, p = work.sizes.state, block.shape_tokens[-1] * block.shape_tokens[-2]
    b, c = block.matrices()
    scores = torch.bmm(c, b.transpose(1, 2))  # [BCG, L, L]
    weights = block.decays()
    weights *= scores.view(*weights.shape[:3], 1, *scores.shape[1:])
    xdt = block.by_head(block.x, block.dt)
    inner = torch.bmm(weights.view(-1, *scores.shape[1:]), xdt)

    added = torch.bmm(b.transpose(1, 2), block.grouped(block.x, block.dt * block.leaving))
    added = added.view(work.state_shape(block.chunks.stop - block.chunks.start))
    for i, chunk in enumerate(range(block.chunks.start, block.chunks.stop)):
        states[:, chunk] = carry
        carry = torch.addcmul(added[:, i], carry, work.through[:, chunk])
    before = states[:, block.chunks].reshape(-1, n, p)
    y, carried = (v[:, block.tokens].view(block.shape_tokens) for v in out)
    torch.mul(block.from_groups(torch.bmm(c, before)), block.entering, out=carried)
    torch.add(block.from_heads(inner), carried, out=y)
    y.addcmul_(block.x, skip)
    return carry


class _Gradients:
    """Gradients of one scan, filled block by block from the last chunk to the first.

    The gradient of a decay is a sum over all pairs (l, s) that it lies between. It is made of
    sums that hold those pairs only; the shortcut through y and x alone subtracts large numbers
    and is several times less exact in dt_bias and A_log.
    """

    def __init__(
        self,
        work: _Work,
        d: torch.Tensor,
        carried_y: torch.Tensor,
        grad_y: torch.Tensor,
        states: torch.Tensor,
    ) -> None:
        self.work, self.carried_y, self.grad_y, self.states = work, carried_y, grad_y, states
        self.d = d.view(work.sizes.groups, -1, 1)
        self.xbc, self.dt = torch.empty_like(work.xbc), torch.empty_like(work.dt)
        self.skip = torch.empty_like(work.dt)
        # Gradients with respect to the decays inside chunks, [B, T, H]; to the decay sums as
        # tokens are reached from before their chunk, and (negative) as they leave it; and to
        # each chunk's total decay [B, C, 1, H].
        self.direct = torch.empty_like(work.dt)
        self.reached, self.left = torch.empty_like(work.dt), torch.empty_like(work.dt)
        self.total = work.dt.new_empty(work.batch, work.num_chunks, 1, work.sizes.heads)
        self.carry = torch.zeros_like(states[:, 0])
        self.upto = torch.ones_like(work.inside[0, 0]).tril()
        self.earlier = self.upto.tril(-1)

    def log_decay(self) -> torch.Tensor:
        """From all of them to each token's decay [B, T, H]."""
        work = self.work
        shape = (work.batch, work.num_chunks, work.chunk, work.sizes.heads)
        grad = torch.matmul(work.inside.transpose(-1, -2), self.reached.view(shape))
        # A token that leaves the chunk passes the decays of all tokens after it.
        grad += torch.matmul(self.earlier, self.left.view(shape))
        grad += self.total
        return grad.view(work.dt.shape).add_(self.direct)

    def _states(self, block: _Block, reading: torch.Tensor) -> torch.Tensor:
        """Gradients of the states after each chunk of the block [B, C, G, N, K, P].

        `reading` is what each chunk adds to the gradient of the state before it. Also files
        the gradient of each chunk's total decay.
        """
        grad_after = torch.empty_like(reading)
        for i in range(reading.shape[1] - 1, -1, -1):
            chunk = block.chunks.start + i
            grad_after[:, i] = self.carry
            passed = self.carry * self.work.through[:, chunk]
            product = passed * self.states[:, chunk]
            self.total[:, chunk, 0] = product.sum((2, 4)).view(self.work.batch, -1)
            self.carry = passed.add_(reading[:, i])
        return grad_after

    def add_block(self, block: _Block) -> None:
        n, p = self.work.sizes.state, block.shape_tokens[-1] * block.shape_tokens[-2]
        grad_y = self.grad_y[:, block.tokens].view(block.shape_tokens)
        b, c = block.matrices()
        # Inside the chunk.
        grad_inner, grad_scores = self._inside(block, grad_y, torch.bmm(c, b.transpose(1, 2)))
        # Between chunks.
        reads = block.grouped(grad_y, block.entering)
        reading = torch.bmm(c.transpose(1, 2), reads)
        grad_after = self._states(block, reading.view(self.states[:, block.chunks].shape))
        grad_after = grad_after.view(-1, n, p)
        writes = block.grouped(block.x, block.dt * block.leaving)
        before = self.states[:, block.chunks].reshape(-1, n, p)
        grad_c = torch.bmm(grad_scores, b).baddbmm_(reads, before.transpose(1, 2))
        grad_b = torch.bmm(grad_scores.transpose(1, 2), c)
        grad_b.baddbmm_(writes, grad_after.transpose(1, 2))
        # x * dt as a whole.
        carried = torch.bmm(b, grad_after)
        left = writes.mul_(carried).view(*writes.shape[:2], -1, block.shape_tokens[-1]).sum(-1)
        block.per_head(self.left).copy_(block.from_groups(left, 1))
        carried = block.from_groups(carried)
        grad_xdt = torch.addcmul(block.from_heads(grad_inner), carried, block.leaving)
        before_y = self.carried_y[:, block.tokens].view(block.shape_tokens)
        block.per_head(self.reached).copy_((grad_y * before_y).sum(-1, keepdim=True))
        self._file(block, grad_y, grad_xdt, grad_b, grad_c)

    def _inside(
        self, block: _Block, grad_y: torch.Tensor, scores: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients of x * dt [BCGK, L, P] and of C B^T [BCG, L, L] inside chunks.

        Also files what they pass to the decays.
        """
        decays = block.decays()
        per_head = scores.view(*decays.shape[:3], 1, *scores.shape[1:])
        weights = (decays * per_head).view(-1, *scores.shape[1:])
        grad_heads = block.by_head(grad_y)
        grad = torch.bmm(grad_heads, block.by_head(block.x, block.dt).transpose(1, 2))
        grad_inner = torch.bmm(weights.transpose(1, 2), grad_heads)
        grad = grad.view_as(decays).mul_(decays)
        grad_scores = grad.sum(3).view_as(scores)
        # What pairs (l, s) pass to the decays j between them: the sum over s < j <= l.
        between = torch.matmul(grad.mul_(per_head), self.earlier.T).mul_(self.upto)
        block.per_head(self.direct).copy_(between.sum(-2).permute(0, 1, 4, 2, 3).unsqueeze(-1))
        return grad_inner, grad_scores

    def _file(
        self,
        block: _Block,
        grad_y: torch.Tensor,
        grad_xdt: torch.Tensor,
        grad_b: torch.Tensor,
        grad_c: torch.Tensor,
    ) -> None:
        s = self.work.sizes
        inner, state = s.heads * s.head_dim, s.groups * s.state
        out = self.xbc[:, block.tokens].view(*block.shape_tokens[:3], -1)
        grad_x = out[..., :inner].view(block.shape_tokens)
        torch.mul(grad_xdt, block.dt, out=grad_x)
        grad_x.addcmul_(grad_y, self.d)
        split = block.b.shape
        for start, grad in ((inner, grad_b), (inner + state, grad_c)):
            slot = out[..., start : start + state].view(block.b.transpose(2, 3).shape)
            slot.copy_(grad.view(split).transpose(2, 3))
        block.per_head(self.skip).copy_((grad_y * block.x).sum(-1, keepdim=True))
        block.per_head(self.dt).copy_((grad_xdt * block.x).sum(-1, keepdim=True))
