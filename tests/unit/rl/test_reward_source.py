"""RLHF: a reward model in place of the checker, with and without a trace, and the checker as watchman."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from data_mix.world import conversations
from pretrain.hybrid import build_config, load_model
from reward import check
from reward.score_model import ScoreModel, score_ids, score_rows
from rl.config import GrpoConfig
from rl.reward_source import ModelReward
from rl.rollout import Sampler
from rl.stage import held_out_rewards
from workbench.chat import stop_ids
from workbench.engine.protocol import Sampling
from workbench.engine.scripted import ScriptedEngine
from workbench.errors import UserError

QUESTIONS = list(conversations("conversation", "rl", 12, 3))


def _model() -> ScoreModel:
    torch.manual_seed(5)
    shape = build_config(
        pattern="M-*-", hidden_size=32, intermediate_size=64, mamba_num_heads=4, mamba_head_dim=16,
        n_groups=2, ssm_state_size=8, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        vocab_size=320,
    )  # fmt: skip
    return ScoreModel(load_model(shape, seed=5)).eval()


def _sampler(tokenizer: Any, **fields: Any) -> Sampler:
    """Sample 0 gives the worked answer, the others a word; both close a trace where one is open."""

    def script(prompt: Sequence[int], sample: int) -> list[int]:
        text = tokenizer.decode(prompt)
        question = next(q for q in QUESTIONS if str(q.messages[0]["content"]) in text)
        answer = str((question.reply or {})["content"]) if sample == 0 else f"word {sample}"
        trace = "hm\n</think>\n\n" if text.endswith("<think>\n") else ""
        ids = tokenizer.encode(f"{trace}{answer}\n", add_special_tokens=False)
        return [*ids, *stop_ids(tokenizer)]

    engine = ScriptedEngine(script, lambda ids: tokenizer.decode(ids, skip_special_tokens=True))
    sampler = Sampler(engine, tokenizer, Sampling(max_tokens=200, n=3), True, "mean")
    return replace(sampler, **fields)


def _verdicts(question: Any, group: Sequence[Any], thinking: bool) -> list[float | None]:
    """The checker asked directly. A bare word passes some prompts: no commas, forbidden words."""
    options = {**question.check.options, **({"thinking_opened": True} if thinking else {})}
    spec = question.check
    return [check(spec.kind, r.completion.text, spec.reference, **options).value for r in group]


def test_the_model_rewards_and_the_checker_watches(tokenizer: PreTrainedTokenizerFast) -> None:
    model = _model()
    sampler = _sampler(tokenizer, score=ModelReward(model, tokenizer), thinking="both")
    groups = sampler.roll_out(QUESTIONS, seed=1)
    modes = set()
    for question, group in zip(QUESTIONS, groups, strict=True):
        text = tokenizer.decode(group[0].prompt)
        modes.add(thinking := text.endswith("<think>\n"))
        rows = [
            score_ids(
                question.prompt,
                r.completion.text,
                thinking=thinking,
                tools=None,
                tokenizer=tokenizer,
            )
            for r in group
        ]
        expected = score_rows(model, rows, pad_token_id=0)
        assert [r.reward for r in group] == pytest.approx(expected, abs=1e-5)
        mean = sum(expected) / 3
        assert [r.advantage for r in group] == pytest.approx([e - mean for e in expected], abs=1e-5)
        assert [r.checked for r in group] == _verdicts(question, group, thinking)
        assert group[0].checked == 1.0
    assert {r.checked for group in groups for r in group} == {0.0, 1.0}
    assert modes == {True, False}
    again = sampler.roll_out(QUESTIONS[::-1], seed=1)[::-1]
    assert [g[0].prompt for g in again] == [g[0].prompt for g in groups]


def test_the_checker_alone_is_as_before(tokenizer: PreTrainedTokenizerFast) -> None:
    groups = _sampler(tokenizer).roll_out(QUESTIONS, seed=1)
    for question, group in zip(QUESTIONS, groups, strict=True):
        assert [r.reward for r in group] == _verdicts(question, group, True)
        assert [r.checked for r in group] == [None] * 3
    bare = [replace(QUESTIONS[0], check=None)]
    with pytest.raises(UserError, match="has no check"):
        _sampler(tokenizer).roll_out(bare, seed=1)
    scored = _sampler(tokenizer, score=ModelReward(_model(), tokenizer)).roll_out(bare, seed=1)
    assert all(r.reward is not None and r.checked is None for r in scored[0])


def test_a_failed_reply_has_no_reward(tokenizer: PreTrainedTokenizerFast) -> None:
    sampler = _sampler(tokenizer, score=ModelReward(_model(), tokenizer))
    plain = sampler.engine.generate

    def generate(prompts: Any, sampling: Any) -> Any:
        groups = plain(prompts, sampling)
        groups[0][1] = replace(groups[0][1], finish_reason="error", error="gone")
        return groups

    sampler.engine.generate = generate  # type: ignore[method-assign]
    failed = sampler.roll_out(QUESTIONS[:2], seed=1)[0][1]
    assert failed.reward is None and failed.advantage is None and failed.status == "gone"


def test_held_out_keeps_both(tokenizer: PreTrainedTokenizerFast) -> None:
    sampler = _sampler(tokenizer, score=ModelReward(_model(), tokenizer))
    found = held_out_rewards(sampler, QUESTIONS, 1, "before")
    assert set(found) == {"held_out_before", "held_out_checker_before"}
    assert found["held_out_checker_before"] == [1.0] * 12
    assert set(held_out_rewards(_sampler(tokenizer), QUESTIONS, 1, "after")) == {"held_out_after"}


def test_configuration() -> None:
    source = {"type": "world", "domain": "conversation"}
    raw = {"kind": "grpo", "prompts": source, "held_out": source, "needs": ["sft", "rm"]}
    config = GrpoConfig.read(
        {**raw, "reward": {"kind": "model", "model": "rm"}, "thinking": "both"}, where="x"
    )
    assert config.reward.model == "rm" and config.thinking == "both"
    for reward, words in (
        ({"kind": "model"}, "write {kind: model, model: STAGE}"),
        ({"model": "rm"}, "or {kind: checker}"),
        ({"kind": "model", "model": "other"}, "'other' is not in needs"),
    ):
        with pytest.raises(UserError, match=words):
            GrpoConfig.read({**raw, "reward": reward}, where="x")
