"""Ablations: the stages that one stands for, shares of a blend, and a table that calls a non-effect one."""

import math
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from scipy import stats

from data_mix.config import BlendConfig
from evals.ablation.config import AblationConfig, with_shares
from evals.ablation.expand import expand
from evals.ablation.table import Measure, _number, compare, markdown
from workbench.errors import UserError
from workbench.recipe import build, load
from workbench.statistics import two_way_interval

RECIPE = Path("recipes/miniature-ablation.yaml")


def by_hand(values: list[float], one: list[str], other: list[str]) -> tuple[float, float]:
    """(variance of the mean, p) by Cameron, Gelbach and Miller (2011), written as sums over pairs."""
    x = np.array(values)
    e, n = x - x.mean(), len(values)

    def meat(names: list[Any]) -> float:
        groups = len(set(names))
        total = sum(e[i] * e[j] for i, j in product(range(n), repeat=2) if names[i] == names[j])
        return float(total) * groups / (groups - 1) / n**2

    one_v, other_v = meat(one), meat(other)
    variance = max(one_v + other_v - meat(list(zip(one, other, strict=True))), one_v, other_v)
    df = min(len(set(one)), len(set(other))) - 1
    return variance, float(2 * stats.t.sf(abs(x.mean()) / math.sqrt(variance), df))


def test_two_way_clusters_equal_the_sum_over_pairs() -> None:
    rng = Random(3)
    seeds, problems = [f"s{n}" for n in range(3)], [f"p{n}" for n in range(12)]
    effect = {name: rng.gauss(0, 1) for name in [*seeds, *problems]}
    cells = [(s, p) for s in seeds for p in problems for _ in range(2)]
    values = [0.4 + effect[s] + effect[p] + rng.gauss(0, 1) for s, p in cells]
    one, other = [s for s, _ in cells], [p for _, p in cells]
    found, p = two_way_interval(values, one, other)
    variance, p_hand = by_hand(values, one, other)
    assert found.stderr == pytest.approx(math.sqrt(variance), rel=1e-12)
    assert p == pytest.approx(p_hand, rel=1e-12)
    # Student's quantile of two degrees of freedom, from a table: 4.303.
    assert (found.high - found.value) / found.stderr == pytest.approx(4.303, abs=1e-3)
    assert found.n == 36


def test_two_way_of_one_seed_or_nothing_says_nothing() -> None:
    found, p = two_way_interval([1.0, 0.0], ["a", "a"], ["x", "y"])
    assert math.isnan(found.stderr) and math.isnan(p)
    assert math.isnan(two_way_interval([], [], [])[1])
    same, p = two_way_interval([0.0] * 4, ["a", "a", "b", "b"], ["x", "y", "x", "y"])
    assert (same.value, p) == (0.0, 1.0)


def test_false_alarms_are_no_more_than_one_in_twenty() -> None:
    """500 null experiments of 3 seeds x 40 problems with effects of both: at most 5% of p are below 0.05."""
    rng, alarms = Random(11), 0
    for _ in range(500):
        seed = [rng.gauss(0, 0.3) for _ in range(3)]
        problem = [rng.gauss(0, 0.5) for _ in range(40)]
        cells = [(s, p) for s in range(3) for p in range(40)]
        values = [seed[s] + problem[p] + rng.gauss(0, 1) for s, p in cells]
        names = [str(s) for s, _ in cells], [str(p) for _, p in cells]
        alarms += two_way_interval(values, *names)[1] < 0.05
    assert alarms <= 35  # 25 expected; 99% of a binomial


def blend(**weights: float) -> BlendConfig:
    sources = {name: {"type": "pretraining", "category": "math"} for name in [*weights, "new"]}
    return BlendConfig.read(
        {"sources": sources, "phases": [{"until": 1.0, "weights": weights}]}, where=""
    )


def test_a_share_takes_every_weight_down_alike() -> None:
    """60 and 40 with 5% for another: 57, 38 and 5."""
    (phase,) = with_shares(blend(a=60, b=40), {"new": 0.05}).phases
    assert phase.weights == pytest.approx({"a": 0.57, "b": 0.38, "new": 0.05})
    (again,) = with_shares(blend(a=60, b=40), {"b": 0.1}).phases
    assert again.weights == pytest.approx({"a": 0.9, "b": 0.1})


def test_an_ablation_stands_for_its_stages_and_reads_back_the_same() -> None:
    recipe = load(RECIPE)
    made = [name for name in recipe.stages if name.startswith("table3")]
    assert made == [
        *(f"table3-{arm}-{seed}" for arm in ("without", "with") for seed in (1, 2, 3)),
        "table3-evals", "table3",
    ]  # fmt: skip
    one: Any = recipe.stages["table3-with-2"]
    assert (one.kind, one.seed, one.initial, one.needs[0]) == ("pretrain", 2, "parent", "pretrain")
    assert one.blend.phases[0].weights["fr-sft"] == 0.05
    assert "fr-sft" not in recipe.stages["table3-without-2"].blend.phases[0].weights  # type: ignore[attr-defined]
    longest: Any = recipe.stages["table4-rows-1024-qa-1"]
    assert (longest.row_tokens, longest.blend.phases[0].weights["long-qa"]) == (1024, 0.2)
    assert build(recipe.resolved()).resolved() == recipe.resolved()
    changed: Any = load(
        RECIPE, ["stages.table3.train.total_tokens=4096", "stages.table3.seeds=[7]"]
    )
    assert changed.stages["table3-with-7"].total_tokens == 4096
    assert "table3-with-1" not in changed.stages


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"base": "other"}, "not in `needs`"),
        ({"seeds": [1, 1]}, "repeat"),
        ({"arms": {"a": {}, "b": {"share": {"nothing": 0.1}}}}, "not a source of its blend"),
        ({"arms": {"a": {}, "b": {"share": {"new": 1.0}}}}, "leave room"),
        ({"held_out": {}}, "nothing is measured"),
        ({"blend": None}, "has no blend"),
        ({"arms": {"a": {}}}, "at least 2"),
    ],
)
def test_a_wrong_ablation_is_one_line(change: dict[str, Any], words: str) -> None:
    body = {
        "kind": "ablation", "needs": ["base"], "base": "base", "arms": {"a": {}, "b": {}},
        "blend": blend(a=1).model_dump(), "held_out": {"x": {"type": "world"}},
    }  # fmt: skip
    with pytest.raises(UserError, match=words) as error:
        expand("x", {**body, **change})
    assert "\n" not in str(error.value)
    AblationConfig.read(body, where="")


def scores(level: float, gain: float, rng: Random) -> dict[tuple[int, str], tuple[float, str]]:
    return {
        (seed, f"q{n}"): (float(rng.random() < level + gain), f"q{n}")
        for seed in (1, 2, 3)
        for n in range(200)
    }


def test_an_effect_is_found_and_a_non_effect_is_printed_as_one() -> None:
    rng = Random(1)
    same = {"first": scores(0.4, 0, rng), "second": scores(0.4, 0, rng)}
    better = {"first": scores(0.3, 0, rng), "second": scores(0.3, 0.4, rng)}
    measures = [Measure("same", "q", True, True, same), Measure("better", "q", True, True, better)]
    none, some = compare(measures, ["first", "second"])
    assert none.note.startswith("no effect shown") and some.note.startswith("differs")
    assert some.difference.value == pytest.approx(0.4, abs=0.06) and some.problems == 200
    assert some.p_holm == pytest.approx(min(1.0, 2 * some.p)) and none.p_holm == none.p
    text = markdown(
        "t", measures, [none, some], {"first": {"a": 10.0}, "second": {"a": 4.0, "b": 6.0}}, 3
    )
    assert "no effect shown" in text and "| second | 4 | 6 | 10 |" in text


def test_questions_that_one_arm_lacks_are_in_no_difference() -> None:
    rng = Random(2)
    first, second = scores(0.5, 0, rng), scores(0.5, 0, rng)
    del second[2, "q7"]
    (found,) = compare([Measure("m", "q", True, True, {"a": first, "b": second})], ["a", "b"])
    assert (found.n, found.failed) == (599, 1)


def test_nothing_is_written_as_minus_nought() -> None:
    assert _number(-0.0001, False, sign=True) == "+0.000"
    assert _number(-0.0002, True, sign=True) == "+0.0%"
    assert _number(-0.062, True, sign=True) == "-6.2%"
