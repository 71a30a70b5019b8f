"""A budget in the prompt and in the reward: told, paid by hand, and never a reward of its own."""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from transformers import PreTrainedTokenizerFast

import rl.stage
from data_mix.world import conversations
from engine.protocol import Completion
from reward import Component, compose
from reward.rubric import RubricConfig
from reward.verdict import Verdict, decided, failed
from rl.conditioned import BudgetReward, budget_of, conditioned, thinking_tokens
from rl.config import ConditionConfig, GrpoConfig
from rl.reward_source import RubricReward, reward_source
from rl.sample import values_of_parts
from tests.judge_server import Said, judge_server
from workbench.chat.tokens import encoder_of
from workbench.conversation import Conversation
from workbench.errors import UserError

QUESTIONS = list(conversations("math", "rl", 200, 3))
CONFIG = ConditionConfig(budgets=[4, 8], slack=0.5)


def test_each_prompt_is_told_its_budget_always_the_same() -> None:
    counts = Counter(budget_of(q.id, CONFIG) for q in QUESTIONS)
    assert set(counts) == {4, 8} and min(counts.values()) > 70
    told = conditioned(QUESTIONS[0], CONFIG)
    budget = budget_of(QUESTIONS[0].id, CONFIG)
    before = QUESTIONS[0].prompt[-1]["content"]
    assert told.messages[-1]["content"] == f"{before}\nThink for at most {budget} tokens."
    assert told.id == QUESTIONS[0].id and told.check == QUESTIONS[0].check
    assert QUESTIONS[0].prompt[-1]["content"] == before


def test_a_reply_is_paid_in_full_within_its_budget_alone(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Budget 4, slack 1/2: 4 tokens are paid in full, 5 by half, 6 not at all."""
    close = encoder_of(tokenizer).runs(["</think>"])[0]
    config = ConditionConfig(budgets=[4], slack=0.5)
    word = tokenizer.encode("a", add_special_tokens=False)
    assert len(word) == 1
    replies = [Completion([*word * n, *close, *word], [], "", "stop") for n in (4, 5, 6, 4, 4)]
    inner = [decided(1.0), decided(1.0), decided(1.0), failed("gone"), decided(0.5)]
    reward = BudgetReward(lambda *given: inner, config, tokenizer)
    found = reward(QUESTIONS[:1], [replies], [True], [])
    assert [v.value for v in found] == [1.0, 0.5, 0.0, None, 0.5]
    assert found[1].parts == {"thinking_tokens": 5, "budget": 4, "paid": 0.5}
    (open_one,) = BudgetReward(lambda *given: inner[:1], config, tokenizer)(
        QUESTIONS[:1], [[Completion(word * 9, [], "", "length")]], [True], []
    )
    assert open_one.value == 0.0 and thinking_tokens(word * 9, close) == 9
    (without,) = BudgetReward(lambda *given: inner[:1], config, tokenizer)(
        QUESTIONS[:1], [[Completion(word * 9, [], "", "stop")]], [False], []
    )
    assert without.value == 1.0


def grpo(**fields: Any) -> GrpoConfig:
    world = {"type": "world", "domain": "math", "split": "rl"}
    held = world | {"split": "test"}
    return GrpoConfig.read({"kind": "grpo", "prompts": world, "held_out": held} | fields, where="x")


def test_a_reward_below_0_is_no_better_for_overspending(tokenizer: PreTrainedTokenizerFast) -> None:
    config = ConditionConfig(budgets=[4], slack=0.5)
    word = tokenizer.encode("a", add_special_tokens=False)
    replies = [Completion(word * n, [], "", "stop") for n in (4, 5, 9)]
    reward = BudgetReward(lambda *given: [decided(-3.0)] * 3, config, tokenizer)
    assert [v.value for v in reward(QUESTIONS[:1], [replies], [True], [])] == [-3.0] * 3


def test_each_part_of_a_reward_is_paid_by_the_budget(tokenizer: PreTrainedTokenizerFast) -> None:
    """Advantages of parts are taken from them: one reply keeps its budget, one overspends by half the slack."""
    parts = [Component("right", 1.0, decided(1.0)), Component("mine", 0.5, decided(-0.5))]
    config = ConditionConfig(budgets=[4], slack=0.5)
    word = tokenizer.encode("a", add_special_tokens=False)
    replies = [Completion(word * n, [], "", "stop") for n in (4, 5)]
    reward = BudgetReward(lambda *given: [compose(parts)] * 2, config, tokenizer)
    found = [values_of_parts(v) for v in reward(QUESTIONS[:1], [replies], [True], [])]
    assert found == [{"right": 1.0, "mine": -0.5}, {"right": 0.5, "mine": -0.5}]


def stage_context(config: GrpoConfig) -> Any:
    ignored = lambda *given, **named: None  # noqa: E731
    return SimpleNamespace(
        config=config, seed=1, outputs={}, progress=ignored, note=ignored, warn=ignored
    )


def test_what_a_prompt_tells_is_what_it_is_paid_by(tokenizer: PreTrainedTokenizerFast) -> None:
    """Of a validation too, whose prompts have ids of their own."""
    condition = {"budgets": [4, 12, 32]}
    config = grpo(
        condition=condition,
        validation={"every": 1, "num_prompts": 30},
        num_prompts=30,
        num_held_out=30,
    )
    asked = rl.stage._questions(stage_context(config), tokenizer)
    assert config.condition is not None and len(asked.validation) > 10
    for q in cast(list[Conversation], [*asked.pool, *asked.held_out, *asked.validation]):
        budget = budget_of(q.id, config.condition)
        assert q.prompt[-1]["content"].endswith(f"Think for at most {budget} tokens."), q.id


def test_two_budgets_do_not_make_two_of_one_question(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    budgets = [4, 12]
    told = ConditionConfig(budgets=budgets)
    ids = sorted((str(n) for n in range(9)), key=lambda name: budget_of(name, told))
    for name, those in (("prompts", ids[:2]), ("held_out", ids[-2:])):
        rows = [
            {"id": id_, "prompt": f"{n} + 1 = ?", "answer": str(n + 1)}
            for n, id_ in enumerate(those)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    columns = {"prompt": "prompt", "answer": "answer"}
    source = {"type": "jsonl", "form": "question", "check": "math", "columns": columns}
    sources: dict[str, Any] = {
        name: source | {"path": str(tmp_path / f"{name}.jsonl")} for name in ("prompts", "held_out")
    }
    config = grpo(condition={"budgets": budgets}, num_prompts=2, num_held_out=2, **sources)
    with pytest.raises(UserError, match="2 of 2 held-out prompts are also trained on"):
        rl.stage._questions(stage_context(config), tokenizer)


def test_it_pays_whatever_reward_there_is(tokenizer: PreTrainedTokenizerFast) -> None:
    context: Any = SimpleNamespace(config=grpo())
    assert reward_source(context, tokenizer, {}) is None
    context.config = grpo(condition={"budgets": [4]})
    score = reward_source(context, tokenizer, {})
    assert isinstance(score, BudgetReward)
    checks = [decided(1.0), Verdict(0.0, "wrong_format", {})]
    word = tokenizer.encode("a", add_special_tokens=False)
    found = score(QUESTIONS[:1], [[Completion(word * 5, [], "", "length")] * 2], [True], checks)
    assert [v.value for v in found] == [0.5, 0.0] and found[1].status == "wrong_format"


def test_rubrics_are_a_reward_and_a_lost_reply_has_none() -> None:
    with judge_server(lambda request: Said('{"score": 10}')) as server:
        config = grpo(
            reward={"kind": "rubric", "rubric": {"endpoint": server.address}}
        ).reward.rubric
        assert isinstance(config, RubricConfig)
        from engine.judge_client import JudgeClient

        done = [Completion([1], [], "4", "stop"), Completion([], [], "", "error", error="gone")]
        found = RubricReward(JudgeClient(config), config)(QUESTIONS[:1], [done], [False])
    assert [v.value for v in found] == [1.0, None] and found[1].parts["reason"] == "gone"


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"condition": {"budgets": [0]}}, "give numbers above 0"),
        ({"condition": {"budgets": [4], "instruction": "Be brief."}}, "must hold {budget}"),
        ({"condition": {"budgets": [4]}, "thinking": False}, "condition needs a trace"),
        (
            {
                "condition": {"budgets": [4]},
                "reward": {"kind": "model", "model": "m"},
                "needs": ["m"],
            },
            "condition with a reward model",
        ),
        ({"reward": {"kind": "rubric"}}, "reward kind 'rubric' with nothing"),
    ],
)
def test_a_recipe_that_cannot_be_meant(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        grpo(**fields)
