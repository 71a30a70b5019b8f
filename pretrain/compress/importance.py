"""How much each width unit matters, from activations alone (arXiv 2508.14444, section 4).

Every score is the mean over a row's tokens of the size of an activation, then the l2 norm over
rows. Legend: B rows, T tokens, H hidden, F feed-forward, N heads, P channels of a head.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from model.hybrid import Hybrid
from model.packed import Rows, last_hidden

FINAL = -1
"""Stands for the number of a layer where the norm behind all of them is meant."""


@dataclass
class Scores:
    """hidden [H]; ffn: layer -> [F]; mamba: layer -> [N, P].

    size: layer (or FINAL) -> mean square of each normalised channel [H] in front of it;
    gated_size: layer -> the same of a Mamba layer's gated norm [N * P].
    """

    hidden: torch.Tensor
    ffn: dict[int, torch.Tensor] = field(default_factory=dict)
    mamba: dict[int, torch.Tensor] = field(default_factory=dict)
    size: dict[int, torch.Tensor] = field(default_factory=dict)
    gated_size: dict[int, torch.Tensor] = field(default_factory=dict)


@torch.no_grad()
def width_scores(
    model: Hybrid, batches: Sequence[Rows], *, tick: Callable[[], None] = lambda: None
) -> Scores:
    """Scores of every width of the model, by one forward pass over the rows.

    hidden: outputs of the layers' norms, summed over layers. ffn: a neuron's activation, behind
    its squared ReLU. mamba: the x part of in_proj's output. tick is called once a pass.
    """
    sums = _Sums()
    hooks = _hooks(model, sums)
    rows_seen = tokens = 0
    try:
        for rows in batches:
            last_hidden(model, rows)
            rows_seen += rows.input_ids.shape[0]
            tokens += rows.input_ids.numel()
            tick()
    finally:
        for hook in hooks:
            hook.remove()
    assert rows_seen, "no calibration rows"
    # What is kept is chosen, and cut, on the CPU.
    scores = {key: v.sqrt().cpu() for key, v in sums.scores.items()}
    squares = {key: (v / tokens).cpu() for key, v in sums.squares.items()}
    return Scores(
        hidden=torch.stack([v for (what, _), v in scores.items() if what == "hidden"]).sum(0),
        ffn={i: v for (what, i), v in scores.items() if what == "ffn"},
        mamba={i: v for (what, i), v in scores.items() if what == "mamba"},
        size={i: v for (what, i), v in squares.items() if what == "size"},
        gated_size={i: v for (what, i), v in squares.items() if what == "gated"},
    )


class _Sums:
    """Running sums in float64, by what they are of and the layer."""

    def __init__(self) -> None:
        self.scores: dict[tuple[str, int], torch.Tensor] = {}
        self.squares: dict[tuple[str, int], torch.Tensor] = {}

    def score(self, what: str, layer: int, values: torch.Tensor) -> None:
        """values [B, T, ...]: (mean over T of the size) squared, summed over B."""
        new = values.double().abs().mean(1).square().sum(0)
        self.scores[what, layer] = self.scores.get((what, layer), 0) + new

    def square(self, what: str, layer: int, values: torch.Tensor) -> None:
        """values [B, T, D]: squares, summed over B and T."""
        new = values.double().square().sum((0, 1))
        self.squares[what, layer] = self.squares.get((what, layer), 0) + new


def _hooks(model: Hybrid, sums: _Sums) -> list[Any]:
    base = model.base_model
    hooks = [base.norm_f.register_forward_hook(_norm_hook(sums, FINAL))]
    for number, block in enumerate(base.layers):
        hooks.append(block.norm.register_forward_hook(_norm_hook(sums, number)))
        if block.block_type == "mlp":
            # Our feed-forward layer does not call its projections as modules.
            hooks.append(block.mixer.register_forward_pre_hook(_neuron_hook(sums, number)))
        elif block.block_type == "linear_attention":
            mixer = block.mixer
            hooks.append(mixer.in_proj.register_forward_hook(_channel_hook(sums, number, mixer)))
            hooks.append(mixer.out_proj.register_forward_pre_hook(_gated_hook(sums, number, mixer)))
    return hooks


def _norm_hook(sums: _Sums, number: int) -> Callable[..., None]:
    def hook(norm: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        x = args[0].double()
        scale = (x.square().mean(-1, keepdim=True) + norm.variance_epsilon).rsqrt()
        sums.square("size", number, x * scale)
        if number != FINAL:
            sums.score("hidden", number, output)

    return hook


def _neuron_hook(sums: _Sums, number: int) -> Callable[..., None]:
    def hook(mixer: Any, args: tuple[torch.Tensor, ...]) -> None:
        up = nn.functional.linear(args[0], mixer.up_proj.weight, mixer.up_proj.bias)
        sums.score("ffn", number, mixer.act_fn(up))

    return hook


def _channel_hook(sums: _Sums, number: int, mixer: Any) -> Callable[..., None]:
    inner = mixer.num_heads * mixer.head_dim

    def hook(in_proj: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        x = output[..., inner : 2 * inner]  # z, x, B, C, dt
        sums.score("mamba", number, x.unflatten(-1, (mixer.num_heads, mixer.head_dim)))

    return hook


def _gated_hook(sums: _Sums, number: int, mixer: Any) -> Callable[..., None]:
    def hook(out_proj: Any, args: tuple[torch.Tensor, ...]) -> None:
        # The gated norm is a function, not a module: its weight is divided out of what it gave.
        # A channel of weight 0 tells nothing of its size, and counts as silent.
        weight = mixer.norm.weight.double()
        silent = weight == 0
        normed = args[0].double() / weight.masked_fill(silent, 1.0)
        sums.square("gated", number, normed.masked_fill(silent, 0.0))

    return hook
