"""Held-out prompts are refused where they are trained on, in the same words or in others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from data_mix.supervised import take_conversations
from environments.catalogue import take_tasks
from environments.config import HouseTasks
from rl.held_out import check_held_out
from tests.tiny import ROOT
from workbench.conversation import Conversation
from workbench.errors import UserError
from workbench.recipe import load


def ask(words: str, problem: str | None = None, domain: str = "math") -> Conversation:
    messages: list[Any] = [{"role": "user", "content": words}]
    return Conversation(id=words, domain=domain, messages=messages, problem=problem)


def test_the_same_words_and_the_same_problem_are_found() -> None:
    trained = [ask("1 + 2 = ?", "1,2"), ask("Say hello.")]
    check_held_out(trained, [ask("3 + 4 = ?", "3,4"), ask("1,2"), ask("so", "1,2", "science")])
    for held_out in (ask("Say hello."), ask("What is 2 + 1?", "1,2")):
        with pytest.raises(UserError, match=r"^1 of 2 held-out prompts are also trained on \("):
            check_held_out(trained, [ask("5 + 5 = ?"), held_out])


def test_a_task_is_known_by_its_problem() -> None:
    task = take_tasks(HouseTasks(type="house", split="rl"), 1, 17)[0]
    assert task.problem is not None
    other = replace(task, messages=[{"role": "user", "content": "In other words."}])
    with pytest.raises(UserError, match="1 of 1 held-out tasks are also trained on"):
        check_held_out([task], [other])


def test_a_worked_reply_makes_no_other_prompt() -> None:
    solved = ask("Say hello.")
    solved.messages.append({"role": "assistant", "content": "hello"})
    with pytest.raises(UserError, match="also trained on"):
        check_held_out([solved], [ask("Say hello.")])


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda p: p.stem)
def test_what_our_recipes_hold_out_is_not_trained_on(path: Path) -> None:
    stages: Any = load(path).stages
    for stage in stages.values():
        if stage.kind in ("grpo", "reward_model") and stage.prompts.type in (
            "world", "reasoning_gym",
        ):  # fmt: skip
            trained = take_conversations(
                stage.prompts, min(stage.num_prompts, 2000), name="p", seed=17
            )
            held_out = take_conversations(stage.held_out, stage.num_held_out, name="h", seed=17)
            check_held_out(trained, held_out)
        elif stage.kind == "dpo":
            tasks = take_tasks(stage.tasks, stage.num_tasks, 17)
            check_held_out(tasks, take_tasks(stage.held_out, stage.num_held_out, 17))
