"""Matrices as E4M3 values with a scale a block: DeepSeek-V3's tiles (arXiv 2412.19437, 3.3.2).

A value is `values * scale of its block`. Scales are chosen from the block's largest magnitude, so no value
is cut off. A block with NaN or infinity is NaN as a whole: nothing that is not finite is hidden.

Legend: R rows, C columns, r x c the block; ragged edges have smaller blocks.
"""

from typing import Literal, NamedTuple

import torch
from torch.nn import functional

from model.fp8.config import TILE

E4M3 = torch.float8_e4m3fn
LARGEST = 448.0
"""The largest magnitude of E4M3."""
_SMALLEST = 1e-12
# 448 = 0.875 x 2^9; an fp32 exponent has 8 bits and a bias of 127.
_MANTISSA, _EXPONENT, _BIAS, _BITS, _LOWEST = 0.875, 9, 127, 23, -126

Block = tuple[int, int]
Scales = Literal["pow2", "fp32"]
TOKENS: Block = (1, TILE)
"""A tile: its values are one row's."""
WEIGHTS: Block = (TILE, TILE)


class Blocks(NamedTuple):
    """values [R, C] in E4M3; scales [ceil(R/r), ceil(C/c)] in fp32; block: (r, c)."""

    values: torch.Tensor
    scales: torch.Tensor
    block: Block

    def expanded(self) -> torch.Tensor:
        """The matrix [R, C] in fp32, exactly as quantised."""
        rows, columns = self.values.shape
        tiles = in_blocks(decoded(self.values), self.block)
        return _flat(tiles * self.scales[:, None, :, None], rows, columns)


_EVERY = torch.arange(256, dtype=torch.uint8).view(E4M3).float()


def decoded(values: torch.Tensor) -> torch.Tensor:
    """E4M3 in fp32. On a CPU by a table of all 256, which is six times faster than torch's conversion."""
    if values.device.type != "cpu":
        return values.float()
    return _EVERY.index_select(0, values.view(torch.uint8).flatten().int()).view(values.shape)


def quantise(x: torch.Tensor, block: Block, scales: Scales = "pow2") -> Blocks:
    """x [R, C] in blocks."""
    multiplier, scale = steps(largest(x, block), scales)
    return Blocks(encode(x, multiplier, block), scale, block)


def largest(x: torch.Tensor, block: Block, above: int = 0) -> torch.Tensor:
    """The largest magnitude of each block [ceil((above + R)/r), ceil(C/c)]; NaN and infinity stay.

    above: rows of the whole matrix above the first one here, where x is a share of its rows: the blocks are
    then those of the whole matrix, counted from the one that `above` ends in.
    """
    return in_blocks(x.float(), block, above).abs().amax((1, 3))


def steps(amax: torch.Tensor, scales: Scales) -> tuple[torch.Tensor, torch.Tensor]:
    """(what a value is multiplied by, its inverse: the scale) for blocks with these largest magnitudes.

    pow2: the smallest power of two that keeps the block within 448, exact in both. fp32: 448 / largest, as
    DeepSeek and torchao have it. Not finite: NaN.
    """
    if scales == "pow2":
        mantissa, exponent = torch.frexp(amax)
        exponent = exponent - _EXPONENT + (mantissa > _MANTISSA).int()
        exponent = exponent.clamp(min=_LOWEST, max=-_LOWEST)
        multiplier, scale = _power_of_two(-exponent), _power_of_two(exponent)
    else:
        multiplier = (LARGEST / amax.double().clamp(min=_SMALLEST)).float()
        scale = 1.0 / multiplier
    finite = torch.isfinite(amax)
    return torch.where(finite, multiplier, torch.nan), torch.where(finite, scale, torch.nan)


def _power_of_two(exponent: torch.Tensor) -> torch.Tensor:
    """2^exponent in fp32, by its bits: exp2 may round."""
    return ((exponent.int() + _BIAS) << _BITS).view(torch.float32)


def encode(x: torch.Tensor, multiplier: torch.Tensor, block: Block, above: int = 0) -> torch.Tensor:
    """x [R, C] times its blocks' multipliers, in E4M3; values beyond 448 become 448, NaN stays NaN."""
    tiles = in_blocks(x.float(), block, above) * multiplier[:, None, :, None]
    rows, columns = x.shape
    return _flat(tiles.clamp_(-LARGEST, LARGEST).to(E4M3), rows, columns, above)


def in_blocks(x: torch.Tensor, block: Block, above: int = 0) -> torch.Tensor:
    """[R, C] -> [blocks down, r, blocks across, c], zeros around what is ragged."""
    (rows, columns), (r, c) = x.shape, block
    below, beside = -(above + rows) % r, -columns % c
    if above or below or beside:
        x = functional.pad(x, (0, beside, above, below))
    return x.reshape(-(-len(x) // r), r, -(-x.shape[1] // c), c)


def _flat(tiles: torch.Tensor, rows: int, columns: int, above: int = 0) -> torch.Tensor:
    flat = tiles.flatten(2).flatten(0, 1)
    return flat[above : above + rows, :columns].contiguous()


def by_rows(x: torch.Tensor) -> torch.Tensor:
    """[B, T, C] -> [C, B x T'] with each row's tokens filled up with zeros to whole tiles.

    Tiles along the tokens are a row's own then: how rows are grouped changes no bit of them.
    """
    x = functional.pad(x, (0, 0, 0, -x.shape[1] % TILE))
    return x.permute(2, 0, 1).reshape(x.shape[2], -1)
