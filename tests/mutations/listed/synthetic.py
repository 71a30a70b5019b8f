"""Synthetic data and ablations: what is kept, and what a table may claim."""

from tests.mutations.mutation import Mutation

_DRIVE = ("tests/unit/synthesis/test_drive.py",)
_VOTES = ("tests/unit/synthesis/test_votes.py",)
_TRANSLATE = ("tests/unit/synthesis/test_translate.py",)
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
    Mutation(
        "answers that were lost are forgotten in a vote",
        "evals/synthesis/votes.py",
        "if top >= at_least and top > second + lost:",
        "if top >= at_least and top > second:",
        "a row is kept although the replies that did not come could have outvoted it",
        _VOTES,
    ),
    Mutation(
        "a row that hangs on lost answers is removed",
        "evals/synthesis/votes.py",
        "if lost and top + lost >= at_least and top + lost > second:",
        "if False:",
        "a dead server removes rows",
        _DRIVE,
    ),
    Mutation(
        "a cut reply is a whole one",
        "evals/synthesis/drive.py",
        'if row["finish"] != "stop":',
        "if False:",
        "halves of problems and solutions are kept",
        _DRIVE,
    ),
    Mutation(
        "half a line of replies is written on",
        "engine/replies.py",
        "if path.stat().st_size and not _ends_a_line(path):",
        "if False:",
        "after a kill the next reply is written onto half a line, and both are lost",
        _VOTES,
    ),
    Mutation(
        "one seed for every try",
        "evals/synthesis/drive.py",
        'name = item.name if not item.attempt else f"{item.name}/again-{item.attempt}"',
        "name = item.name",
        "a reply that was cut is cut again in the same way",
        _DRIVE,
    ),
    Mutation(
        "translated numbers are not compared",
        "evals/synthesis/tasks/translate.py",
        "if numbers(origin) != numbers(line):",
        "if False:",
        "a translation may change a year or a sum",
        _TRANSLATE,
    ),
    Mutation(
        "lines may change places",
        "evals/synthesis/parsing.py",
        "if given == numbers:",
        "if sorted(given) == numbers:",
        "a translation with its lines in another order is kept",
        _TRANSLATE,
    ),
    Mutation(
        "held-out hosts are trained on",
        "data_mix/quality/stage.py",
        "inside = [n for n, out in enumerate(apart) if not out]",
        "inside = list(range(len(apart)))",
        "agreement is measured on what was learned by heart",
        ("tests/unit/data_mix/test_quality.py",),
    ),
)
