"""The document scan of model/layers/scan.py in fused kernels, forward and backward.

Rows are walked in segments of chunks so that the states of one segment, fp32, take at most a GiB; the
forward pass keeps only the state that enters each segment, and the backward pass makes the others again.
"""

import dataclasses
from typing import Any

import torch
import torch.nn.functional as F
import triton

from model.layers.scan import Sizes
from model.layers.triton import launch
from model.layers.triton.scan_kernels import (
    decays,
    gradients,
    grads_after,
    outputs,
    states_before,
)

# Tokens of a chunk: a chunk is one tile, so that a program holds its products in registers; fp32 has room
# for half of them.
_CHUNK_TOKENS = {torch.float32: 32, torch.bfloat16: 64, torch.float16: 64}
# Values of the states in hand at once.
SEGMENT_VALUES = 1 << 28
# Programs that fill a large card; fewer heads a program where there would be less. The number follows from
# the shape alone, so that every card adds in the same order.
_PROGRAMS = 512
# A thread's, for the kernel with the most to hold: left alone, ptxas gives it half of them on SM 8.0, for a
# second block that its tiles leave no room for.
_REGISTERS = 255
# Beyond this a program's tiles do not fit in the registers.
MOST_STATE = 128


def serves(dtype: torch.dtype, sizes: Sizes) -> bool:
    """Whether the kernels take these sizes."""
    return launch.takes(dtype) and sizes.state <= MOST_STATE


def scan(
    xbc: torch.Tensor,
    dt: torch.Tensor,
    log_decay: torch.Tensor,
    d: torch.Tensor,
    sizes: Sizes,
    position: torch.Tensor,
    chunk: int | None = None,
) -> torch.Tensor:
    """xbc [B, T, H*P + 2*G*N], dt and log_decay (base 2) [B, T, H] fp32, d [H] fp32 -> y [B, T, H*P].

    position [B, T] int32: each token's place in its document. chunk: a power of two from 16 up; None: what suits the type.
    y has the type of xbc, which is also that of the products' factors.
    """
    chunk = chunk or _CHUNK_TOKENS[xbc.dtype]
    padding = (0, -xbc.shape[1] % chunk)
    dt, log_decay = (F.pad(v.transpose(1, 2), padding).contiguous() for v in (dt, log_decay))
    if xbc.stride(-1) != 1:
        xbc = xbc.contiguous()
    return _Scan.apply(xbc, dt, log_decay, d, _Shape.of(xbc, sizes, chunk), position.contiguous())


@dataclasses.dataclass(frozen=True)
class _Shape:
    """Sizes of one call, and how it is shared out over programs."""

    rows: int
    tokens: int
    chunk: int
    sizes: Sizes

    @classmethod
    def of(cls, xbc: torch.Tensor, sizes: Sizes, chunk: int) -> "_Shape":
        return cls(xbc.shape[0], xbc.shape[1], chunk, sizes)

    @property
    def chunks(self) -> int:
        return -(-self.tokens // self.chunk)

    @property
    def state(self) -> tuple[int, int, int, int]:
        """One state for each head of each row."""
        return self.rows, self.sizes.heads, self.sizes.head_dim, self.sizes.state

    @property
    def splits(self) -> int:
        """Programs that share a group's heads."""
        groups = self.sizes.groups
        programs = self.rows * self.chunks * groups
        return max(1, min(self.sizes.heads // groups, -(-_PROGRAMS // programs)))

    @property
    def segments(self) -> list[tuple[int, int]]:
        """First and last chunk (excluded) of each."""
        rows, heads, head_dim, state = self.state
        step = max(1, SEGMENT_VALUES // (rows * heads * head_dim * state))
        return [(i, min(i + step, self.chunks)) for i in range(0, self.chunks, step)]

    def tiles(self, widest: int) -> int:
        """Values of head_dim at once: the widest power of two that wastes none, at least a product's."""
        tile = widest
        while tile > launch.LEAST and self.sizes.head_dim % tile:
            tile //= 2
        return tile

    def numbers(self, xbc: torch.Tensor) -> tuple[int, ...]:
        s, padded = self.sizes, self.chunks * self.chunk
        strides = (xbc.stride(0), xbc.stride(1))
        return (*strides, self.tokens, padded, s.heads, s.head_dim, s.groups, s.state)

    def options(self, xbc: torch.Tensor, widest: int) -> dict[str, Any]:
        tiles = {"L": self.chunk, "PT": self.tiles(widest)}
        state = launch.at_least_a_product(self.sizes.state)
        return {**tiles, "NB": state, **launch.products(xbc.dtype)}


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        xbc: torch.Tensor,
        dt: torch.Tensor,
        log_decay: torch.Tensor,
        d: torch.Tensor,
        shape: _Shape,
        position: torch.Tensor,
    ) -> torch.Tensor:
        with launch.on(xbc.device):
            work = _Work(shape, xbc, dt, log_decay, d, position)
            y, carries = work.forward()
        ctx.save_for_backward(xbc, dt, log_decay, d, position, carries)
        ctx.shape = shape
        return y

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[Any, ...]:
        *inputs, carries = ctx.saved_tensors
        with launch.on(carries.device):
            found = _Work(ctx.shape, *inputs).backward(grads[0].contiguous(), carries)
        return (*found, None, None)


class _Work:
    """Inputs of one scan, and how much of a state reaches what."""

    def __init__(
        self,
        shape: _Shape,
        xbc: torch.Tensor,
        dt: torch.Tensor,
        log_decay: torch.Tensor,
        d: torch.Tensor,
        position: torch.Tensor,
    ) -> None:
        self.shape, self.xbc, self.dt, self.log_decay = shape, xbc, dt, log_decay
        self.d, self.position = d, position
        self.entering, self.leaving = torch.empty_like(dt), torch.empty_like(dt)
        rows, heads, padded = dt.shape
        self.through = dt.new_empty(rows, heads, shape.chunks)
        decays[(rows * shape.chunks, heads)](
            log_decay, position, self.entering, self.leaving, self.through,
            heads, shape.tokens, padded, L=shape.chunk, num_warps=4,
        )  # fmt: skip

    def states(self, carry: torch.Tensor, first: int, last: int) -> torch.Tensor:
        """The state before each chunk of a segment [B, C, H, P, N]; carry becomes the one after it."""
        rows, *state = self.shape.state
        states = carry.new_empty(rows, last - first, *state)
        options = self.shape.options(self.xbc, 32)
        states_before[self._walks(options)](
            self.xbc, self.dt, self.leaving, self.through, states, carry,
            *self.shape.numbers(self.xbc), first, last, **options, num_warps=4, num_stages=2,
        )  # fmt: skip
        return states

    def grads(
        self, carry: torch.Tensor, grad_y: torch.Tensor, first: int, last: int
    ) -> torch.Tensor:
        """The gradient of the state after each chunk; carry becomes that of the one before them."""
        rows, *state = self.shape.state
        grads = carry.new_empty(rows, last - first, *state)
        options = self.shape.options(self.xbc, 32)
        grads_after[self._walks(options)](
            self.xbc, self.entering, self.through, grad_y, grads, carry,
            *self.shape.numbers(self.xbc), first, last, **options, num_warps=4, num_stages=2,
        )  # fmt: skip
        return grads

    def _walks(self, options: dict[str, Any]) -> tuple[int, int]:
        """The grid of kernels that walk along the rows."""
        rows, heads, head_dim, _ = self.shape.state
        return rows * heads, triton.cdiv(head_dim, options["PT"])

    def _chunks(self, first: int, last: int) -> tuple[tuple[int, int], tuple[int, ...]]:
        """The grid of kernels that take chunks apart from each other, and their numbers."""
        splits = self.shape.splits
        grid = self.shape.rows * (last - first), self.shape.sizes.groups * splits
        return grid, (*self.shape.numbers(self.xbc), first, last - first, splits)

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """y, and the states that enter the segments [segments, B, H, P, N]."""
        s, xbc = self.shape.sizes, self.xbc
        y = torch.empty(*xbc.shape[:2], s.heads * s.head_dim, dtype=xbc.dtype, device=xbc.device)
        carry = torch.zeros(self.shape.state, device=xbc.device)
        carries = carry.new_empty(len(self.shape.segments), *self.shape.state)
        options = self.shape.options(xbc, 64)
        for number, (first, last) in enumerate(self.shape.segments):
            carries[number] = carry
            states = self.states(carry, first, last)
            grid, numbers = self._chunks(first, last)
            outputs[grid](
                xbc, self.dt, self.log_decay, self.entering, self.position, states, self.d, y,
                *numbers, **options, num_warps=4, num_stages=2,
            )  # fmt: skip
        return y, carries

    def backward(self, grad_y: torch.Tensor, carries: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Gradients of xbc, dt, log_decay and d."""
        s, xbc, dt = self.shape.sizes, self.xbc, self.dt
        grad_xbc = torch.empty(xbc.shape, dtype=xbc.dtype, device=xbc.device)
        grad_bc = dt.new_empty(self.shape.splits, *xbc.shape[:2], 2 * s.groups * s.state)
        grad_dt, grad_log = torch.empty_like(dt), torch.empty_like(dt)
        grad_skip = torch.empty_like(self.through)
        carry = torch.zeros(self.shape.state, device=xbc.device)
        options = self.shape.options(xbc, 32)
        for number, (first, last) in reversed(list(enumerate(self.shape.segments))):
            states = self.states(carries[number].clone(), first, last)
            grads = self.grads(carry, grad_y, first, last)
            grid, numbers = self._chunks(first, last)
            gradients[grid](
                xbc, dt, self.log_decay, self.entering, self.leaving, self.through, self.position,
                states, grads, self.d, grad_y, grad_xbc, grad_bc, grad_dt, grad_log, grad_skip,
                *numbers, **options, num_warps=8, num_stages=1, maxnreg=_REGISTERS,
            )  # fmt: skip
        grad_xbc[..., s.heads * s.head_dim :] = grad_bc.sum(0)
        return grad_xbc, grad_dt, grad_log, grad_skip.sum((0, 2))
