"""Context parallelism: the processes of a group hold slices of a row, and trade them for slices of heads.

Around the layers that look along a row (convolution and scan, attention) one all-to-all gives each
process the whole row of its share of the heads, and another one gives the slices back (Ulysses; for
Mamba-2 the groups are the heads that B and C belong to). Everything else works token by token. The
layers are the same code as in one process, so documents stay isolated to the bit.

Legend: n processes, B rows, T tokens of a whole row, T/n of a slice.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch.nn import functional
from transformers import PreTrainedModel

from model.layers.experts import ByDocument
from model.layers.layout import DocumentLayout
from model.layers.mixer import DocumentMamba2, DocumentMamba2Mixer, Parts
from workbench.errors import UserError

_GROUP = "_context_group"


def split_rows(model: PreTrainedModel, group: dist.ProcessGroup | None) -> None:
    """Let the processes of `group` share each row of `model`, in which documents are installed.

    The model is then called with whole rows, and what comes out is this process's slice. None: no
    sharing. Raises: UserError where the model's heads do not share out.
    """
    if group is None:
        return
    config, size = model.config.get_text_config(), group.size()
    sizes = {"num_key_value_heads": config.num_key_value_heads}
    sizes |= {"num_attention_heads": config.num_attention_heads}
    if hasattr(config, "ssm_state_size"):
        sizes |= {"n_groups": config.n_groups, "mamba_num_heads": config.mamba_num_heads}
    for name, value in sizes.items():
        if value % size:
            raise UserError(
                f"distributed.context {size} does not divide the model's {name} ({value}); the processes "
                "of a row share its heads"
            )
    other = [
        type(module).__name__
        for module in model.modules()
        if isinstance(module, ByDocument)
        or (isinstance(module, DocumentMamba2) and not isinstance(module, DocumentMamba2Mixer))
    ]
    if other:
        raise UserError(
            f"distributed.context {size}: layers of {other[0]} cannot work on a slice of a row; leave context "
            "at 1 for this model"
        )
    for module in model.modules():
        if isinstance(module, DocumentMamba2Mixer):
            module.__class__ = ContextMixer
        setattr(module, _GROUP, group)


def group_of(module: torch.nn.Module) -> dist.ProcessGroup | None:
    """The processes that hold the slices of this module's rows, or None."""
    return getattr(module, _GROUP, None)


def local(model: torch.nn.Module, tensor: torch.Tensor) -> torch.Tensor:
    """This process's slice [B, T/n, ...] of a tensor over whole rows [B, T, ...].

    Raises: ValueError where the row does not share out.
    """
    group = group_of(model)
    if group is None:
        return tensor
    size, length = group.size(), tensor.shape[1]
    if length % size:
        raise ValueError(
            f"a row of {length} tokens does not share out over {size} processes; pad it"
        )
    each = length // size
    return tensor[:, group.rank() * each : (group.rank() + 1) * each]


def padded(
    model: torch.nn.Module, input_ids: torch.Tensor, document: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """A row [T] with its documents, made long enough to share out; what is added is a document of its own."""
    group = group_of(model)
    spare = 0 if group is None else -len(input_ids) % group.size()
    if not spare:
        return input_ids, document
    last = int(document[-1]) + 1
    return functional.pad(input_ids, (0, spare)), functional.pad(document, (0, spare), value=last)


def counts(model: torch.nn.Module) -> bool:
    """Whether this process counts what all that share its rows know: one of them does."""
    group = group_of(model)
    return group is None or group.rank() == 0


def summed(model: torch.nn.Module, own: torch.Tensor) -> torch.Tensor:
    """The sum over the processes that share a row, in each of them.

    Each then computes the same loss of it and its gradient reaches its own part alone: added up over
    the processes, as gradients are, that is the loss's gradient, once.
    """
    group = group_of(model)
    out: torch.Tensor = own if group is None else _Sum.apply(own, group)
    return out


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, own: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        out = own.contiguous().clone()
        dist.all_reduce(out, group=group)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return grads[0], None


def at_places(
    model: torch.nn.Module, hidden: torch.Tensor, position: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of places in a row [N] the hidden states that this process holds [M, D], and which they are [N].

    hidden: its slice [T/n, D].
    """
    group = group_of(model)
    if group is None:
        return hidden[position], torch.ones_like(position, dtype=torch.bool)
    place = position - group.rank() * len(hidden)
    mine = (place >= 0) & (place < len(hidden))
    return hidden[place[mine]], mine


def put_together(model: torch.nn.Module, own: torch.Tensor, mine: torch.Tensor) -> torch.Tensor:
    """One value for each place [N], from those [M] of this process's places and of the others'."""
    if group_of(model) is None:
        return own
    spread = own.new_zeros(mine.shape).masked_scatter(mine, own)
    return summed(model, spread)


class _AllToAll(torch.autograd.Function):
    """[n, ...]: part i goes to process i, and part i comes from it. It is its own gradient."""

    @staticmethod
    def forward(ctx: Any, parts: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        return _exchange(parts, group)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
        return _exchange(grads[0], ctx.group), None


def _exchange(parts: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    parts = parts.contiguous()
    out = torch.empty_like(parts)
    dist.all_to_all_single(out, parts, group=group)
    return out


def to_heads(x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """[B, T/n, n, W], W channels for each process -> [B, T, W], this process's channels."""
    got = _AllToAll.apply(x.permute(2, 0, 1, 3), group)  # first axis: whose tokens
    size, rows, tokens, width = got.shape
    return got.permute(1, 0, 2, 3).reshape(rows, size * tokens, width)


def to_tokens(x: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """[B, T, W] of this process's channels -> [B, T/n, n, W], this process's tokens."""
    size = group.size()
    rows, length, width = x.shape
    parts = x.view(rows, size, length // size, width).transpose(0, 1)
    return _AllToAll.apply(parts, group).permute(1, 2, 0, 3)  # first axis: whose channels


def by_process(x: torch.Tensor, size: int) -> torch.Tensor:
    """[..., W] -> [..., n, W/n]: heads in their order, a stretch of them for each process."""
    return x.unflatten(-1, (size, -1))


def heads_of_whole_rows(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, group: dist.ProcessGroup
) -> list[torch.Tensor]:
    """[B, H, T/n, D] of query, key and value -> [B, H/n, T, D] of each."""
    given, size = (query, key, value), group.size()
    flat = [by_process(v.transpose(1, 2).flatten(2), size) for v in given]
    whole = to_heads(torch.cat(flat, -1), group)
    apart = whole.split([v.shape[-1] for v in flat], -1)
    return [
        v.unflatten(-1, (-1, own.shape[-1])).transpose(1, 2)
        for v, own in zip(apart, given, strict=True)
    ]


def slices_of_all_heads(out: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
    """[B, T, H/n, D] -> [B, T/n, H, D]."""
    return to_tokens(out.flatten(2), group).unflatten(-1, (-1, out.shape[-1])).flatten(2, 3)


class ContextMixer(DocumentMamba2Mixer):
    """A Mamba-2 layer on slices of rows. Parameters stay whole: gradients reach this process's part."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        cache_params: Any = None,
        attention_mask: torch.Tensor | None = None,
        document_layout: DocumentLayout | None = None,
        seq_idx: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """hidden_states [B, T/n, hidden] -> the same; the layout is that of the whole rows."""
        group = group_of(self)
        if group is None or document_layout is None or cache_params is not None:
            raise ValueError("rows that are split need seq_idx and no cache")
        size = group.size()
        widths = self.widths()
        apart = self.in_proj(hidden_states).split(widths, -1)
        mine = to_heads(torch.cat([by_process(part, size) for part in apart], -1), group)
        gate, xbc, dt = self.cut(mine, [width // size for width in widths])
        parts = self._mine(group.rank(), size)
        y = self.mix(gate, xbc, dt, parts, None, document_layout)
        y = to_tokens(y.to(hidden_states.dtype), group).flatten(2)
        return self.out_proj(y)

    def _mine(self, rank: int, size: int) -> Parts:
        """The parameters of this process's heads."""

        def part(value: torch.Tensor) -> torch.Tensor:
            return value.chunk(size)[rank]

        def channels(value: torch.Tensor) -> torch.Tensor:
            return torch.cat([part(v) for v in value.split(self.widths()[1:4])])

        whole = self.parts()
        return Parts(
            conv_weight=channels(whole.conv_weight),
            conv_bias=None if whole.conv_bias is None else channels(whole.conv_bias),
            dt_bias=part(whole.dt_bias),
            decay=part(whole.decay),
            skip=part(whole.skip),
            norm=part(whole.norm),
            heads=whole.heads // size,
            groups=whole.groups // size,
        )
