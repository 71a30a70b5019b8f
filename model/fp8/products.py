"""Products of matrices in blocks: by the card's tensor cores (SM90), or emulated.

The emulation expands both sides, which is exact, and multiplies in fp32: it differs from the card in the
order of its sums alone. torch's scaled products take blocks of 128 on SM90 with CUDA 12.9 or newer
(aten/src/ATen/native/cuda/ScaledBlas.cpp says which shapes and strides of scales they take).
"""

from functools import cache

import torch
from torch.nn import functional

from model.fp8.blocks import TOKENS, WEIGHTS, Blocks, Scales, quantise
from model.fp8.config import TILE
from workbench.errors import UserError

_SM90 = (9, 0)
_ROWS = 16  # of the left side: what the card's products take whole
_GAP = {torch.float32: 1e-3, torch.bfloat16: 4e-3}
"""How far the card may be from the emulation, by norm: the latter has bf16's own rounding, 2^-9."""


def multiply(a: Blocks, b: Blocks, dtype: torch.dtype) -> torch.Tensor:
    """a @ b.T [rows of a, rows of b], summed in fp32, in `dtype`. Tokens and weights, or tokens both."""
    if a.values.device.type == "cpu" or a.block != TOKENS:
        return emulated(a, b).to(dtype)
    check_card(a.values.device)
    return on_card(a, b, dtype)


def emulated(a: Blocks, b: Blocks) -> torch.Tensor:
    """a @ b.T in fp32 from what both sides are exactly."""
    with torch.autocast(a.values.device.type, enabled=False):
        return a.expanded() @ b.expanded().T


def on_card(a: Blocks, b: Blocks, dtype: torch.dtype) -> torch.Tensor:
    """a @ b.T by torch's scaled product, ragged sides filled up with zeros."""
    from torch.nn.functional import ScalingType, scaled_mm  # noqa: PLC0415 - not in every torch

    recipe = {TOKENS: ScalingType.BlockWise1x128, WEIGHTS: ScalingType.BlockWise128x128}
    (rows, columns), width = (len(a.values), len(b.values)), a.values.shape[1]
    out = scaled_mm(
        whole(a.values, _ROWS, TILE),
        whole(b.values, TILE, TILE).T,
        tile_scales(a.scales, -rows % _ROWS),
        recipe[TOKENS],
        tile_scales(b.scales, -columns % TILE)
        if b.block == TOKENS
        else block_scales(b.scales, -(-width // TILE)),
        recipe[b.block],
        output_dtype=dtype,
    )
    return out[:rows, :columns]


def whole(values: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """[R, C] with zeros to multiples of `rows` and `columns`."""
    below, beside = -len(values) % rows, -values.shape[1] % columns
    if not (below or beside):
        return values
    # Not every torch pads E4M3; a zero byte is its zero.
    filled = functional.pad(values.view(torch.uint8), (0, beside, 0, below))
    return filled.view(values.dtype)


def tile_scales(scales: torch.Tensor, more: int) -> torch.Tensor:
    """Scales of tiles [R + more, K/128], rows next to each other in memory: strides (1, R + more)."""
    return functional.pad(scales, (0, 0, 0, more), value=1.0).T.contiguous().T


def block_scales(scales: torch.Tensor, across: int) -> torch.Tensor:
    """Scales of blocks [N/128, K/128] -> [K/128 filled up to a multiple of 4, N/128], strides (1, that)."""
    return functional.pad(scales, (0, -across % 4), value=1.0).contiguous().T


def why_not(device: torch.device) -> str | None:
    """Why FP8 in blocks does not run on this device, or None."""
    if device.type == "cpu":
        return None
    capability = torch.cuda.get_device_capability(device)
    name = torch.cuda.get_device_name(device)
    if capability != _SM90:
        had = "no FP8" if capability < (8, 9) else "FP8 without blocks of 128 in torch"
        return (
            f"precision fp8 needs a Hopper card (SM9.0: H100, H200); {name} is SM{capability[0]}."
            f"{capability[1]} and has {had}; set precision: bf16"
        )
    version = tuple(int(part) for part in (torch.version.cuda or "0").split(".")[:2])
    if version < (12, 9) or not hasattr(functional, "scaled_mm"):
        return (
            f"precision fp8 needs torch with CUDA 12.9 or newer and its scaled_mm; this is torch "
            f"{torch.__version__}; set precision: bf16"
        )
    return None


def check_device(device: torch.device) -> None:
    """Raises: UserError where FP8 does not run here."""
    if refusal := why_not(device):
        raise UserError(refusal)


@cache
def check_card(device: torch.device) -> dict[str, float]:
    """Distance of the card's products from the emulation, by norm. Raises: UserError where one is far."""
    found = gaps(device)
    for name, (gap, allowed) in found.items():
        if not gap <= allowed:
            raise UserError(
                f"FP8 products of this card differ from their emulation ({name}: {gap:.1e}, allowed "
                f"{allowed:.0e}); set precision: bf16, and report what scripts/gpu_check.py --only fp8 says"
            )
    return {name: gap for name, (gap, _) in found.items()}


def gaps(device: torch.device) -> dict[str, tuple[float, float]]:
    """Product -> (distance by norm, what is allowed), of ragged matrices in both kinds of scales."""
    draw = torch.Generator().manual_seed(5)
    tokens, width, columns = 200, 320, 272
    x, w, g = (
        torch.randn(size, generator=draw).to(device)
        for size in ((tokens, width), (columns, width), (tokens, columns))
    )
    found: dict[str, tuple[float, float]] = {}
    kinds: tuple[Scales, ...] = ("pow2", "fp32")
    for scales in kinds:
        sides = {
            "forward": (quantise(x, TOKENS, scales), quantise(w, WEIGHTS, scales)),
            "input gradient": (quantise(g, TOKENS, scales), turned(quantise(w, WEIGHTS, scales))),
            "weight gradient": (quantise(g.T, TOKENS, scales), quantise(x.T, TOKENS, scales)),
        }
        for name, (a, b) in sides.items():
            dtype = torch.float32 if name == "weight gradient" else torch.bfloat16
            wanted = emulated(a, b)
            gap = float((on_card(a, b, dtype).float() - wanted).norm() / wanted.norm())
            found[f"{name}, {scales}"] = gap, _GAP[dtype]
    return found


def turned(b: Blocks) -> Blocks:
    """The transposed matrix: blocks of weights are square, so it has the same ones."""
    return Blocks(b.values.T.contiguous(), b.scales.T.contiguous(), b.block)
