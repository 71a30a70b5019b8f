"""Weights that are gathered as FP8 bytes from the processes that hold their shares (FSDP2).

Each process quantises its own rows, so a byte a value travels instead of two. A block's scale belongs to
the whole block, whose rows may lie in several processes (184 of them cut a weight of 20,480 rows every 112):
they first agree on each block's largest magnitude, four bytes a block. What is gathered then equals, to the
bit, the whole weight quantised, however it is cut. FSDP calls the two hooks below around its own gather.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule
from torch.distributed.fsdp._fully_shard._fsdp_param import FSDPParam

from model.fp8.blocks import E4M3, Block, Blocks, encode, largest, steps
from model.fp8.config import Fp8Config
from model.fp8.linear import BlockLinear, weight_block


def gather_in_fp8(module: FSDPModule) -> None:
    """Let FSDP gather the weights of this group's BlockLinears in FP8."""
    for group in module._get_fsdp_state()._fsdp_param_groups:
        for param in group.fsdp_params:
            owner = param._module_info.module
            if isinstance(owner, BlockLinear) and param._module_info.param_name == "weight":
                # torch asks the share of a weight for the hooks: see FSDPParam.all_gather_inputs.
                param.__class__ = _Fp8Param
                param._init_extensions()


class _Fp8Param(FSDPParam):
    """A sharded weight whose share has the hooks of FSDP's gather."""

    @property
    def _sharded_local_tensor(self) -> torch.Tensor:
        share: Any = super()._sharded_local_tensor
        if not hasattr(share, "fsdp_pre_all_gather"):
            hooks = _Hooks(share, self)
            share.fsdp_pre_all_gather, share.fsdp_post_all_gather = hooks.before, hooks.after
        return share  # type: ignore[no-any-return]


class _Hooks:
    """What FSDP calls around a gather of one weight [N, K], of which this process has some rows."""

    def __init__(self, share: torch.Tensor, param: FSDPParam) -> None:
        self.share, self.param = share, param

    @torch.no_grad()
    def before(
        self, mesh: DeviceMesh, size: torch.Size, stride: Any, module: BlockLinear, policy: Any
    ) -> tuple[tuple[torch.Tensor], torch.Tensor]:
        """The bytes to gather [rows of a share, K], and every block's scale."""
        each = self.param.padded_sharded_param_size[0]
        first = min(mesh.get_local_rank() * each, size[0])
        group = mesh.get_group()
        values, scales = share_of_blocks(self.share, first, size, module.fp8, group)
        sent = values.new_zeros(each, size[1], dtype=torch.uint8)
        sent[: len(values)] = values.view(torch.uint8)
        return (sent,), scales

    @torch.no_grad()
    def after(
        self,
        gathered: tuple[torch.Tensor, ...],
        scales: torch.Tensor,
        dtype: torch.dtype,
        *,
        out: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]] | None:
        """The weight in blocks. Later gathers put the bytes where those of the first were."""
        (sent,) = gathered
        size = self.param._orig_size
        values = sent.view(E4M3)[: size[0]]
        if out is not None:
            out.blocks = Blocks(values, scales, out.blocks.block)  # type: ignore[attr-defined]
            return None
        module: Any = self.param._module_info.module
        block = weight_block(size, module.fp8)
        # Gradients are added in fp32, whatever travels.
        return GatheredWeight(Blocks(values, scales, block), self.param.orig_dtype), ()


def share_of_blocks(
    share: torch.Tensor, first: int, size: torch.Size, how: Fp8Config, group: dist.ProcessGroup
) -> tuple[torch.Tensor, torch.Tensor]:
    """(this process's rows in E4M3, the scales of all blocks) of a weight of `size`; its rows begin at
    `first`. Every process of the group must call it."""
    block: Block = weight_block(size, how)
    height = block[0]
    down, across = -(-size[0] // height), -(-size[1] // block[1])
    amax = share.new_zeros(down, across, dtype=torch.float32)
    above, top = first % height, first // height
    if len(share):
        own = largest(share, block, above)
        amax[top : top + len(own)] = own
    # The largest of NaN and a number may be the number: infinity says the same and is never lost.
    amax = torch.where(torch.isnan(amax), torch.inf, amax)
    dist.all_reduce(amax, dist.ReduceOp.MAX, group=group)
    multiplier, scales = steps(amax, how.scales)
    if not len(share):
        return share.new_empty(share.shape, dtype=E4M3), scales
    below = top + -(-(above + len(share)) // height)
    return encode(share, multiplier[top:below], block, above), scales


class GatheredWeight(torch.Tensor):
    """A weight of which only its blocks are here. It takes gradients; to other code it is what the blocks
    expand to."""

    blocks: Blocks

    @staticmethod
    def __new__(cls, blocks: Blocks, dtype: torch.dtype) -> "GatheredWeight":
        values = blocks.values
        made: GatheredWeight = torch.Tensor._make_wrapper_subclass(
            cls, values.shape, dtype=dtype, device=values.device
        )
        made.blocks = blocks
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """The same blocks where nothing is computed; else the operation on what they expand to."""
        same = (torch.ops.aten.detach.default, torch.ops.aten.alias.default)
        if func in same or func is torch.ops.aten.as_strided.default:
            return cls(args[0].blocks, args[0].dtype)
        args, named = torch.utils._pytree.tree_map_only(
            cls, lambda w: w.blocks.expanded().to(w.dtype), (args, kwargs or {})
        )
        return func(*args, **named)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"GatheredWeight({list(self.shape)}, {self.dtype})"


def is_gathered_in_fp8(model: nn.Module) -> bool:
    """Whether some of its weights travel as FP8."""
    return any(
        isinstance(param, _Fp8Param)
        for module in model.modules()
        if isinstance(module, FSDPModule)
        for group in module._get_fsdp_state()._fsdp_param_groups
        for param in group.fsdp_params
    )
