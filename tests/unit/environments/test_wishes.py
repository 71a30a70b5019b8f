"""The wishes of docs/examples/wishes.py: their own solutions pass, other texts do not, and they are not in IFBench's words."""

import importlib.util
import json
import random
import sys
from collections import Counter, defaultdict
from itertools import islice
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from data_mix.decontaminate import Decontaminator
from evals.sources import package_folder
from reward.instructions import check_instructions
from reward.reply import CheckedReply

FILE = Path("docs/examples/wishes.py")
PLAIN = (
    "Bread rises because yeast makes gas. It is a very old process, and the dough gets bigger and bigger. "
    "The baker waits for the bread, and the bread is for the baker."
)
# Ours and what IFBench calls it, with the names of its arguments. Some of ours are the stricter.
TWINS: dict[str, tuple[str, dict[str, str]]] = {
    "word_lines": ("format:newline", {}),
    "no_spaces": ("format:no_whitespace", {}),
    "title_case": ("format:title_case", {}),
    "marked_list": ("format:list", {"sep": "marker"}),
    "nested_list": ("format:sub-bullets", {}),
    "text_then_points": ("format:no_bullets_bullets", {}),
    "italics": ("format:thesis", {}),
    "nested_quotes": ("format:quotes", {}),
    "nested_brackets": ("format:parentheses", {}),
    "emoji": ("format:emoji", {}),
    "stairs": ("format:line_indent", {}),
    "numbers": ("count:numbers", {"N": "count"}),
    "pronouns": ("count:pronouns", {"N": "count"}),
    "joining_words": ("count:conjunctions", {"small_n": "count"}),
    "all_marks": ("count:punctuation", {}),
    "statements": ("ratio:sentence_type", {}),
    "balanced": ("ratio:sentence_balance", {}),
    "same_ends": ("words:paragraph_last_first", {}),
    "few_repeats": ("words:repeats", {"small_n": "most"}),
    "alphabet": ("words:alphabet", {}),
}


@pytest.fixture(scope="module")
def wishes() -> ModuleType:
    spec = importlib.util.spec_from_file_location("wishes", FILE)
    assert spec is not None and spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    sys.modules["wishes"] = made
    spec.loader.exec_module(made)
    return made


def _tasks(wishes: ModuleType, split: str, count: int = 900) -> list[dict[str, Any]]:
    return list(islice(wishes.Wishes().tasks(split, 17), count))


def test_every_wish_is_granted_by_its_own_reply_and_not_by_any_text(wishes: ModuleType) -> None:
    asked, granted = Counter[str](), Counter[str]()
    world = wishes.Wishes()
    rng = random.Random(1)
    every = [
        world._task(name, passage, rng)
        for name in wishes.KINDS
        for passage in wishes._PASSAGES
        for _ in range(12)
    ]
    for task in every:
        world.reset(task)
        world.said = world.solve()[0]
        assert world.verify(), task
        world.said = PLAIN
        asked[task["kind"]] += 1
        granted[task["kind"]] += world.verify()
    assert len(asked) == len(wishes.KINDS) == 30
    # A plain text keeps to some limits by chance, and to no form.
    assert {kind for kind in asked if granted[kind]} <= {"dense", "length", "few_repeats"}
    assert all(granted[kind] < asked[kind] for kind in asked)


def test_the_splits_share_no_passage(wishes: ModuleType) -> None:
    topics = defaultdict(set)
    for split in ("train", "test"):
        for task in _tasks(wishes, split):
            topics[split].update(p["topic"] for p in wishes._PASSAGES if p["ask"] in task["prompt"])
    assert topics["train"] and topics["test"] and not topics["train"] & topics["test"]


def test_ifbench_grants_what_ours_does(wishes: ModuleType) -> None:
    for task in _tasks(wishes, "train", 300):
        if task["kind"] not in TWINS:
            continue
        name, arguments = TWINS[task["kind"]]
        kwargs = {theirs: task["args"][ours] for theirs, ours in arguments.items()}
        item = {"instruction_id": name, "kwargs": kwargs}
        # In a checking process, as ever: IFBench's module puts stand-ins for packages where it is loaded.
        reply = CheckedReply(task["reply"], [])
        found = check_instructions(reply, [item], family="ifbench", prompt=task["prompt"])
        assert found.value == 1.0, (task, found)


NEAR = {
    "emoji": ["...", "Bread rises 面", "Bread rises →."],
    "title_case": ["...", "Bread Rises because Of Gas"],
    "same_ends": ["...", "Bread rises."],
    "alphabet": ["1 apple", "Apples calm"],
    "all_marks": ["Is it so?! Yes; no, never."],
    "nested_brackets": ["([{(x)}])", "(((((x))))"],
    "nested_list": ["* one\n* two\n  - three"],
    "stairs": ["One line."],
    "statements": ["One. Two. Three?  Four?"],
}


@pytest.mark.parametrize("kind", NEAR)
def test_what_nearly_grants_a_wish_does_not(wishes: ModuleType, kind: str) -> None:
    world = wishes.Wishes()
    world.reset(wishes.Wishes()._task(kind, wishes._PASSAGES[0], random.Random(1)))
    for text in NEAR[kind]:
        world.said = text
        assert not world.verify(), text


def test_words_are_whole_words(wishes: ModuleType) -> None:
    holds = {name: check for name, (_, check) in wishes.KINDS.items()}
    assert not holds["placed_word"]("I remember.", place=1, word="ember")
    assert holds["placed_word"]("An ember.", place=1, word="ember")
    assert not holds["names"]("Omarion and Linhart.", count=1, offered=["Omar", "Linh"])
    assert holds["table"]("A, B\n1, 2", columns=["A", "B"], count=1)
    assert not holds["template"]("Next: a Claim: b", labels=["Claim", "Next"])


def test_its_lists_are_not_ifbenchs(wishes: ModuleType) -> None:
    text = (package_folder("ifbench", "ifbench") / "instructions.py").read_text("utf-8")
    assert not [name for name in wishes._W["names"] if f'"{name}"' in text]
    rows = (package_folder("ifbench", "ifbench") / "data" / "IFBench_test.jsonl").read_text("utf-8")
    used = {kwargs.get("sep") for row in rows.splitlines() for kwargs in json.loads(row)["kwargs"]}
    assert not used & set(wishes._W["markers"])


def test_no_six_words_in_a_row_are_ifbenchs(wishes: ModuleType) -> None:
    rows = (package_folder("ifbench", "ifbench") / "data" / "IFBench_test.jsonl").read_text("utf-8")
    guard = Decontaminator([json.loads(row)["prompt"] for row in rows.splitlines()], ngram_words=6)

    prompts = [task["prompt"] for task in _tasks(wishes, "train", 2000)]
    assert not [prompt for prompt in prompts if guard.is_contaminated(prompt)]
    assert guard.is_contaminated(json.loads(rows.splitlines()[3])["prompt"])
