"""What a page reads of a run."""

from reports.read import as_they_ran


def test_stages_stand_as_they_ran_also_where_a_recipe_writes_an_inherited_one_anew() -> None:
    """`grpo` of a recipe that extends another one keeps the other's place, ahead of what it now needs."""
    stages = {
        "sft": {"needs": []},
        "grpo": {"needs": ["dpo"]},
        "evals": {"needs": ["grpo", "sft"]},
        "prune": {"needs": ["sft"]},
        "dpo": {"needs": ["prune"]},
    }
    assert as_they_ran(stages) == ["sft", "prune", "dpo", "grpo", "evals"]
