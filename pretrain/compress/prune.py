"""Cut a hybrid: choose what stays, take those rows and columns of every tensor.

Legend: H hidden, F feed-forward, N heads, P channels of a head, G groups.
"""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from transformers import NemotronHConfig

from model.hybrid import Hybrid, load_model
from model.presets import HybridShape
from pretrain.compress.config import TargetConfig
from pretrain.compress.importance import FINAL, Scores
from pretrain.compress.target import WIDTHS, shape_of

Index: TypeAlias = torch.Tensor


@dataclass(frozen=True)
class MambaKept:
    """heads: kept heads, the same number in each group. channels: kept channels of every head."""

    heads: Index
    channels: Index


@dataclass(frozen=True)
class KeptParts:
    """What stays, rising numbers of the model that is cut. ffn, mamba: by layer."""

    hidden: Index
    ffn: dict[int, Index]
    mamba: dict[int, MambaKept]


def choose(scores: Scores, s: HybridShape, target: TargetConfig) -> KeptParts:
    """The highest scores of each width; of equal scores the first units stay."""
    return KeptParts(
        hidden=top(scores.hidden, target.hidden_size or s.hidden_size),
        ffn={i: top(f, target.ffn or s.intermediate_size) for i, f in scores.ffn.items()},
        mamba={
            i: choose_mamba(
                m,
                groups=s.n_groups,
                heads=target.mamba_heads or s.mamba_num_heads,
                channels=target.mamba_head_dim or s.mamba_head_dim,
            )
            for i, m in scores.mamba.items()
        },
    )


def choose_mamba(scores_NP: torch.Tensor, *, groups: int, heads: int, channels: int) -> MambaKept:
    """Nested and group-aware (arXiv 2508.14444, section 4): scores [N, P].

    Channels by ||s[:, d]||, shared by all heads; then heads by ||s[h, kept]||, ranked only inside
    their group, each of which keeps heads / groups.
    """
    kept = top(scores_NP.norm(dim=0), channels)
    by_group = scores_NP[:, kept].norm(dim=1).view(groups, -1)
    inside = [
        top(group, heads // groups) + g * by_group.shape[1] for g, group in enumerate(by_group)
    ]
    return MambaKept(heads=torch.cat(inside), channels=kept)


def top(scores: torch.Tensor, count: int) -> Index:
    """Places of the `count` highest scores, in rising order."""
    order = torch.sort(scores, descending=True, stable=True).indices
    return order[:count].sort().values


def without_layers(model: Hybrid, kept: Sequence[int]) -> Hybrid:
    """A model of these layers of the original one, renumbered."""
    config = copy.deepcopy(model.config)
    config.layers_block_type = [model.config.layers_block_type[i] for i in kept]
    number = {old: new for new, old in enumerate(kept)}
    tensors = {}
    for name, tensor in model.state_dict().items():
        layer, rest = layer_of(name)
        if layer is None:
            tensors[name] = tensor
        elif layer in number:
            tensors[f"{_LAYERS}{number[layer]}.{rest}"] = tensor
    return _build(config, tensors, model)


def narrow(model: Hybrid, kept: KeptParts, target: TargetConfig, sizes: Scores | None) -> Hybrid:
    """A model of the kept units. sizes: rescale the norms so that kept channels keep their size."""
    config = copy.deepcopy(model.config)
    for key, field in WIDTHS.items():
        if getattr(target, key) is not None:
            setattr(config, field, getattr(target, key))
    s = shape_of(model.config)
    tensors = {}
    for name, tensor in model.state_dict().items():
        layer, rest = layer_of(name)
        letter = "" if layer is None else s.pattern[layer]
        axes = _axes(rest, letter, FINAL if layer is None else layer, kept, s)
        out = tensor
        for axis, index in enumerate(axes):
            if index is not None:
                out = out.index_select(axis, index.to(tensor.device))
        if sizes is not None and rest in _NORMS:
            number = FINAL if layer is None else layer
            factor = _rescaling(rest, number, kept, sizes, s)
            out = (out.double() * factor.to(out.device)).to(out.dtype)
        tensors[name] = out
    return _build(config, tensors, model)


_LAYERS = "model.layers."
_NORMS = ("model.norm_f.weight", "norm.weight", "mixer.norm.weight")


def layer_of(name: str) -> tuple[int | None, str]:
    """("model.layers.3.mixer.D") -> (3, "mixer.D"); outside the layers (None, name)."""
    if not name.startswith(_LAYERS):
        return None, name
    number, _, rest = name.removeprefix(_LAYERS).partition(".")
    return int(number), rest


def _axes(
    rest: str, letter: str, layer: int, kept: KeptParts, s: HybridShape
) -> tuple[Index | None, ...]:
    """What stays along each axis of a tensor; None: all. KeyError for one that is not known."""
    h = kept.hidden
    tables: dict[str, dict[str, tuple[Index | None, ...]]] = {
        "": {
            "model.embeddings.weight": (None, h),
            "model.norm_f.weight": (h,),
            "lm_head.weight": (None, h),
        },
        "*": {
            **{f"mixer.{p}_proj.weight": (None, h) for p in "qkv"},
            **{f"mixer.{p}_proj.bias": (None,) for p in "qkv"},
            "mixer.o_proj.weight": (h, None),
            "mixer.o_proj.bias": (h,),
        },
    }
    if letter == "-":
        f = kept.ffn[layer]
        tables["-"] = {
            "mixer.up_proj.weight": (f, h),
            "mixer.up_proj.bias": (f,),
            "mixer.down_proj.weight": (h, f),
            "mixer.down_proj.bias": (h,),
        }
    if letter == "M":
        tables["M"] = _mamba_axes(kept.mamba[layer], h, s)
    return tables[letter].get(rest) or {"norm.weight": (h,)}[rest]


def _mamba_axes(m: MambaKept, h: Index, s: HybridShape) -> dict[str, tuple[Index | None, ...]]:
    inner = inner_index(m, s)
    state = torch.arange(2 * s.n_groups * s.ssm_state_size)
    conv = torch.cat([inner, s.d_inner + state])  # x, B, C
    # z, x, B, C, dt: as the layer splits it.
    rows = torch.cat([inner, s.d_inner + conv, s.d_inner + s.conv_dim + m.heads])
    return {
        "mixer.in_proj.weight": (rows, h),
        "mixer.in_proj.bias": (rows,),
        "mixer.conv1d.weight": (conv,),
        "mixer.conv1d.bias": (conv,),
        "mixer.A_log": (m.heads,),
        "mixer.D": (m.heads,),
        "mixer.dt_bias": (m.heads,),
        "mixer.norm.weight": (inner,),
        "mixer.out_proj.weight": (h, inner),
        "mixer.out_proj.bias": (h,),
    }


def inner_index(m: MambaKept, s: HybridShape) -> Index:
    """Places of the kept channels of the kept heads in [N * P]."""
    return (m.heads[:, None] * s.mamba_head_dim + m.channels[None, :]).flatten()


def _rescaling(
    rest: str, layer: int, kept: KeptParts, sizes: Scores, s: HybridShape
) -> torch.Tensor:
    """sqrt(mean square of the kept channels / of all), from calibration.

    A norm divides by the root of the mean square over its channels. Without this factor the kept
    channels would shrink or grow by what the others were smaller or larger than they. [N * P] for
    the gated norm (a number a group), else a scalar.
    """
    if rest != "mixer.norm.weight":
        square = sizes.size[layer]
        return _ratio(square[kept.hidden].mean(), square.mean())
    index = inner_index(kept.mamba[layer], s)
    square = sizes.gated_size[layer]
    before = square.view(s.n_groups, -1).mean(1)
    after = square[index].view(s.n_groups, -1).mean(1)
    return _ratio(after, before).repeat_interleave(len(index) // s.n_groups)


def _ratio(after: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    return torch.where(before > 0, after / before.clamp(min=1e-300), torch.ones_like(before)).sqrt()


def _build(config: NemotronHConfig, tensors: dict[str, torch.Tensor], like: Hybrid) -> Hybrid:
    first: Any = next(like.parameters())
    made = load_model(config, dtype=str(first.dtype).removeprefix("torch."), seed=0)
    made.load_state_dict(tensors, strict=True)
    made.generation_config = copy.deepcopy(like.generation_config)  # what ends a reply
    return made.to(first.device)
