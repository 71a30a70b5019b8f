"""Is a choice by importance better than one at random? Both are compared with the whole model, untrained."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from random import Random

import torch

from model.hybrid import Hybrid
from model.packed import Rows
from pretrain.compress.config import PruneConfig, TargetConfig
from pretrain.compress.held_out import compare
from pretrain.compress.importance import Scores, width_scores
from pretrain.compress.prune import choose, narrow, without_layers
from pretrain.compress.target import WIDTHS, shape_of
from workbench.records import Difference
from workbench.statistics import paired_difference

WHAT = "nats from the unpruned model, by chance and by importance"


def chance_difference(
    whole: Hybrid,
    chosen: Hybrid,
    target: TargetConfig,
    config: PruneConfig,
    calibration: Sequence[Rows],
    held_out: Sequence[Rows],
    seed: int,
    tick: Callable[[], None] = lambda: None,
) -> tuple[Difference, list[float]]:
    """KL from the whole model on held-out rows, of `random_draws` random choices of the same sizes (their
    mean, row by row) and of the chosen one; and the mean KL of each draw.

    The interval is over rows: how far the draws are apart, only their own means say.
    """
    by_importance = compare(chosen, whole, held_out)["kl"]
    # Where no layers go, all draws are of the whole model, whose scores are the same.
    scores = None if target.layers is not None else width_scores(whole, calibration, tick=tick)
    draws: list[list[float]] = []
    for number in range(config.random_draws):
        rng = Random(f"{seed}/{number}")
        drawn = at_random(whole, target, config, calibration, rng, scores=scores, tick=tick)
        draws.append(compare(drawn, whole, held_out)["kl"])
        del drawn  # a card has room for few models
        tick()
    mean = [sum(rows) / len(rows) for rows in zip(*draws, strict=True)]
    found = paired_difference(mean, by_importance, what=WHAT, unit="rows", share=False)
    return found, [sum(rows) / len(rows) for rows in draws]


def at_random(
    whole: Hybrid,
    target: TargetConfig,
    config: PruneConfig,
    calibration: Sequence[Rows],
    rng: Random,
    *,
    scores: Scores | None = None,
    tick: Callable[[], None] = lambda: None,
) -> Hybrid:
    """The whole model cut to the target, every part that stays drawn. Norms are rescaled as always. scores: of
    its widths, where they are known and no layers go."""
    model, device = whole, next(whole.parameters()).device
    if target.layers is not None:
        kept_layers = _layers(shape_of(model.config).pattern, target.layers, config, rng)
        model = without_layers(model, kept_layers).to(device).eval()
    if any(getattr(target, key) is not None for key in WIDTHS):
        scores = scores or width_scores(model, calibration, tick=tick)
        kept = choose(_drawn(scores, rng), shape_of(model.config), target)
        model = narrow(model, kept, target, scores if config.rescale_norms else None)
    return model.to(device).eval()


def _layers(pattern: str, count: int, config: PruneConfig, rng: Random) -> list[int]:
    may_go = [i for i, letter in enumerate(pattern) if letter in config.removable]
    gone = set(rng.sample(may_go, len(pattern) - count))
    return [i for i in range(len(pattern)) if i not in gone]


def _drawn(scores: Scores, rng: Random) -> Scores:
    generator = torch.Generator().manual_seed(rng.randrange(2**31))

    def like(values: torch.Tensor) -> torch.Tensor:
        return torch.rand(values.shape, generator=generator)

    return replace(
        scores,
        hidden=like(scores.hidden),
        ffn={i: like(v) for i, v in scores.ffn.items()},
        mamba={i: like(v) for i, v in scores.mamba.items()},
    )
