"""Synthetic data and ablations: what is kept, and what a table may claim."""

from tests.mutations.mutation import Mutation

_ABLATION = ("tests/unit/evals/test_ablation.py",)

MUTATIONS = (
    Mutation(
        "an ablation's error clustered by question alone",
        "workbench/statistics.py",
        "variance = max(by_one**2 + by_other**2 - by_both**2, by_one**2, by_other**2)",
        "variance = by_other**2",
        "seeds count as if their noise were none: a table claims effects that are chance",
        _ABLATION,
    ),
    Mutation(
        "three seeds as good as thirty",
        "workbench/statistics.py",
        "half = _t_quantile(least - 1) * stderr",
        "half = Z * stderr",
        "intervals of three seeds are half as wide as they are",
        _ABLATION,
    ),
    Mutation(
        "an arm's share is added to the rest",
        "evals/ablation/config.py",
        "scale = (1 - sum(share.values())) / sum(rest.values())",
        "scale = 1 / sum(rest.values())",
        "the arm's blend is no blend",
        _ABLATION,
    ),
    Mutation(
        "Holm left out of an ablation's words",
        "evals/ablation/table.py",
        'ModelDifference(**{**vars(one), "p_holm": p, "note": verdict(one, p)})',
        'ModelDifference(**{**vars(one), "p_holm": one.p, "note": verdict(one, one.p)})',
        "of twenty non-effects one is printed as an effect",
        _ABLATION,
    ),
)
