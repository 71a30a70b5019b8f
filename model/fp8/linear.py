"""Projections whose product and both products of the backward pass are quantised [paper 2.2].

x in tiles of a token, w in blocks:         y  = x  w^T
dy in tiles of a token, the same w:         dx = dy w
dy and x in tiles along a row's tokens:     dw = dy^T x, in fp32

Tiles of the first two are a token's own, so packed documents stay isolated to the bit. A weight's gradient
is a sum over all documents anyway; how its terms are rounded depends on neighbours within 128 tokens.
"""

from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.nn.utils import skip_init

from model.fp8.blocks import TOKENS, WEIGHTS, Block, Blocks, by_rows, quantise
from model.fp8.config import Fp8Config
from model.fp8.products import check_card, check_device, multiply, turned
from workbench.errors import UserError

# Routers choose experts by small differences: they stay as they are.
_KEPT = ("gate", "router")


class BlockLinear(nn.Linear):
    """A linear layer on E4M3 blocks: same parameters and state dict, of any size."""

    fp8: Fp8Config

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x [..., in] -> [..., out], in autocast's type or that of x."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        weight = getattr(self.weight, "blocks", None)  # gathered in FP8: see model.fp8.gather
        if weight is None:
            weight = quantised_weight(self.weight.detach(), self.fp8)
        y: torch.Tensor = _Product.apply(x, self.weight, weight, self.fp8, dtype)
        return y if self.bias is None else y + self.bias.to(dtype)


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        w: torch.Tensor,
        blocks: Blocks,
        how: Fp8Config,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        kept = [blocks.values, blocks.scales]
        if ctx.needs_input_grad[1]:
            along = _tiles(by_rows(_rows(x)), how)
            kept += [along.values, along.scales]
            ctx.along = along.block
        ctx.save_for_backward(*kept)
        ctx.how, ctx.block, ctx.types, ctx.shape = how, blocks.block, (x.dtype, w.dtype), x.shape
        y = multiply(_tiles(x.reshape(-1, x.shape[-1]), how), blocks, dtype)
        # Not a view to autograd: nobody else has y.
        return torch.ops.aten._unsafe_view.default(y, [*x.shape[:-1], y.shape[-1]])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        values, scales, *along = ctx.saved_tensors
        to_x, to_w = ctx.types
        dx = dw = None
        if ctx.needs_input_grad[0]:
            weight = turned(Blocks(values, scales, ctx.block))
            flat = dy.reshape(-1, dy.shape[-1])
            dx = multiply(_tiles(flat, ctx.how), weight, to_x).view(ctx.shape)
        if ctx.needs_input_grad[1]:
            x = Blocks(along[0], along[1], ctx.along)
            dw = multiply(_tiles(by_rows(_rows(dy)), ctx.how), x, to_w)
        return dx, dw, None, None, None


def _rows(x: torch.Tensor) -> torch.Tensor:
    """[..., T, C] -> [B, T, C]."""
    return x.reshape(-1, *x.shape[-2:]) if x.ndim > 2 else x.reshape(1, -1, x.shape[-1])


def _tiles(x: torch.Tensor, how: Fp8Config) -> Blocks:
    return quantise(x, _block(x.shape, how, TOKENS), how.scales)


def _block(shape: torch.Size, how: Fp8Config, block: Block) -> Block:
    rows, columns = shape
    return block if how.granularity == "blocks" else (rows, columns)


def weight_block(shape: torch.Size, how: Fp8Config) -> Block:
    """The block that a weight of this shape has a scale for."""
    return _block(shape, how, WEIGHTS)


def quantised_weight(weight: torch.Tensor, how: Fp8Config) -> Blocks:
    """A weight [out, in] in its blocks."""
    return quantise(weight, weight_block(weight.shape, how), how.scales)


def projections(model: Any) -> dict[str, nn.Linear]:
    """The matrix products of the model's layers by name, in the order in which they are computed."""
    return {
        name: module
        for name, module in model.base_model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] not in _KEPT
    }


def chosen(model: Any, ends: int) -> list[str]:
    """Names (in the backbone) of those that are quantised. Raises: UserError where none is left."""
    names = list(projections(model))
    middle = names[ends : len(names) - ends]
    if not middle:
        raise UserError(
            f"precision fp8: the model has {len(names)} matrix products and the first and last {ends} are "
            "not quantised, which leaves none; lower fp8.ends or set precision: bf16"
        )
    return middle


def convert(model: Any, how: Fp8Config, device: torch.device) -> list[str]:
    """Let the model's projections but those at its ends compute in FP8, in place; returns their names.

    Raises: UserError where nothing is left to quantise, or where the device has no such FP8.
    """
    check_device(device)
    if device.type != "cpu":
        check_card(device)
    names = chosen(model, how.ends)
    for name in names:
        module = model.base_model.get_submodule(name)
        if type(module) is not nn.Linear:
            raise UserError(
                f"precision fp8: {name} is a {type(module).__name__}, which has no products in FP8; set "
                "precision: bf16"
            )
        module.__class__ = BlockLinear
        module.fp8 = how
    return names


def scales_are_a_tokens_own(how: Fp8Config, device: torch.device) -> bool:
    """Whether one token, made 4,096 times larger, changes no bit of another's output or input gradient."""
    draw = torch.Generator().manual_seed(0)
    sizes = ((150, 200), (1, 6, 200), (1, 6, 150))
    weight, x, dy = (torch.randn(size, generator=draw).to(device) for size in sizes)
    layer = skip_init(BlockLinear, 200, 150, bias=False, device=device)
    layer.fp8 = how
    with torch.no_grad():
        layer.weight.copy_(weight)

    def others(larger: float) -> torch.Tensor:
        factor = torch.tensor([larger, 1, 1, 1, 1, 1], device=device)[:, None]
        given = (x * factor).requires_grad_()
        y = layer(given)
        (dx,) = torch.autograd.grad(y, given, dy * factor)
        return torch.cat([y, dx], -1)[:, 1:].detach()

    with torch.autocast(device.type, enabled=False), torch.enable_grad():
        return torch.equal(others(1), others(4096))


def settings(model: nn.Module) -> set[Fp8Config]:
    """How the model's products in FP8 are quantised; nothing where none is."""
    return {module.fp8 for module in model.modules() if isinstance(module, BlockLinear)}
