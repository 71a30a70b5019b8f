"""RLHF: a model or a judge in place of the checker, or several rewards; the checker as watchman."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from data_mix.world import conversations
from engine.judge_client import JudgeClient
from engine.protocol import Sampling
from engine.scripted import ScriptedEngine
from model.hybrid import build_config, load_model
from reward import check
from reward.pairwise import PairwiseConfig
from reward.plugin import FunctionConfig
from reward.score_model import ScoreModel, score_ids, score_rows
from rl.config import GrpoConfig
from rl.metrics import part_metrics
from rl.reward_model.config import RewardModelConfig
from rl.reward_source import CompositeReward, FunctionReward, JudgeReward, ModelReward, _checker
from rl.rollout_log import RolloutLog
from rl.sample import Sampler
from rl.stage import held_out_rewards
from tests.judge_server import Said, judge_server
from tests.judge_verdicts import longer, say, shown
from workbench.chat import stop_ids
from workbench.conversation import CheckSpec
from workbench.errors import UserError
from workbench.tracking import metric

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
    plain = sampler.engine.stream

    def stream(requests: Any) -> Any:
        for place, done in plain(requests):
            lost = replace(done, finish_reason="error", error="gone")
            yield place, lost if place == 1 else done

    sampler.engine.stream = stream  # type: ignore[method-assign]
    failed = sampler.roll_out(QUESTIONS[:2], seed=1)[0][1]
    assert failed.reward is None and failed.advantage is None and failed.status == "gone"


def test_held_out_keeps_both(tokenizer: PreTrainedTokenizerFast) -> None:
    sampler = _sampler(tokenizer, score=ModelReward(_model(), tokenizer))
    found = held_out_rewards(sampler, QUESTIONS, 1, "before")
    assert set(found) == {"held_out_before", "held_out_checker_before"}
    assert found["held_out_checker_before"] == [1.0] * 12
    assert set(held_out_rewards(_sampler(tokenizer), QUESTIONS, 1, "after")) == {"held_out_after"}


def _judged(tokenizer: Any, url: str, **fields: Any) -> tuple[Sampler, JudgeReward]:
    config = PairwiseConfig(endpoint=url, retries=0)
    score = JudgeReward(JudgeClient(config), config, {})
    return _sampler(tokenizer, score=score, **fields), score


def test_a_judge_rewards_by_win_rate_in_the_group(tokenizer: PreTrainedTokenizerFast) -> None:
    """The longer answer wins: the worked one beats both words, which are equally long."""
    with judge_server(say(longer)) as served:
        sampler, _ = _judged(tokenizer, served.address)
        groups = sampler.roll_out(QUESTIONS[:4], seed=1)
    for question, group in zip(QUESTIONS, groups, strict=False):
        # Circle of three; the words tie, as this judge says itself.
        assert [r.reward for r in group] == [1.0, 0.25, 0.25]
        assert [r.advantage for r in group] == pytest.approx([0.5, -0.25, -0.25])
        assert [r.checked for r in group] == _verdicts(question, group, True)
    assert not any("hm" in text for asked in served.asked for text in shown(asked))
    found = part_metrics([r for group in groups for r in group])
    assert found == {"judge_undecided": 0.0, "judge_flips": 0.0}


def test_a_judge_that_fails_gives_no_reward(tokenizer: PreTrainedTokenizerFast) -> None:
    with judge_server(lambda asked: Said("Both are fine.")) as served:
        sampler, _ = _judged(tokenizer, served.address)
        (group,) = sampler.roll_out(QUESTIONS[:1], seed=1)
    assert [(r.reward, r.advantage) for r in group] == [(None, None)] * 3
    assert "no verdict" in group[0].status


def test_held_out_is_against_the_policy_before(tokenizer: PreTrainedTokenizerFast) -> None:
    with judge_server(say(longer)) as served:
        sampler, score = _judged(tokenizer, served.address)
        before = held_out_rewards(sampler, QUESTIONS[:4], 1, "before")
        assert before["held_out_before"] == [0.5] * 4 and not served.asked
        again = held_out_rewards(sampler, QUESTIONS[:4], 1, "after")
        assert again["held_out_after"] == [0.5] * 4
        for key in score.anchors:
            score.anchors[key] = "x"
        better = held_out_rewards(sampler, QUESTIONS[:4], 1, "after")
        assert better["held_out_after"] == [1.0] * 4


def test_parts_are_weighed_and_on_record(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """0.75 of the check and 0.25 of a score: the mean, each part in metrics and in rollouts.jsonl."""
    model = ModelReward(_model(), tokenizer)
    score = CompositeReward({"rules": (3.0, _checker), "taste": (1.0, model)})
    groups = _sampler(tokenizer, score=score).roll_out(QUESTIONS, seed=1)
    alone = _sampler(tokenizer, score=model).roll_out(QUESTIONS, seed=1)
    for question, group, scored in zip(QUESTIONS, groups, alone, strict=True):
        checks = _verdicts(question, group, True)
        expected = [0.75 * c + 0.25 * s.reward for c, s in zip(checks, scored, strict=True)]  # type: ignore[operator]
        assert [r.reward for r in group] == pytest.approx(expected, abs=1e-5)
    flat = [r for group in groups for r in group]
    found = part_metrics(flat)
    known = [r.checked for r in flat if r.checked is not None]
    assert found["reward_of/rules"] == pytest.approx(sum(known) / len(known))
    assert set(found) == {"reward_of/rules", "reward_of/taste"}
    assert all(metric(name) is not None for name in found)

    log = RolloutLog(tmp_path / "rollouts.jsonl", tokenizer, 2)
    for step in (1, 2):
        log.write(step, groups)
    log.truncate_after(1)
    log.write(2, groups)
    rows = [json.loads(line) for line in (tmp_path / "rollouts.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1] * 6 + [2] * 6
    parts = rows[0]["parts"]["components"]
    assert rows[0]["reward"] == pytest.approx(
        0.75 * parts["rules"]["value"] + 0.25 * parts["taste"]["value"]
    )


def test_an_undecided_part_makes_the_whole_undecided(tokenizer: PreTrainedTokenizerFast) -> None:
    with judge_server(lambda asked: Said(status=500)) as served:
        _, judge = _judged(tokenizer, served.address)
        score = CompositeReward({"rules": (1.0, _checker), "judge": (1.0, judge)})
        (group,) = _sampler(tokenizer, score=score).roll_out(QUESTIONS[:1], seed=1)
    assert [r.reward for r in group] == [None] * 3
    assert all(r.checked is not None for r in group)


def test_a_composite_check_of_the_prompt_is_on_record_too(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    both = CheckSpec("composite", [
        {"kind": "contains", "reference": ["word"], "name": "has_word", "weight": 3},
        {"kind": "contains", "reference": ["zebra"], "name": "has_zebra"},
    ])  # fmt: skip
    (group,) = _sampler(tokenizer).roll_out([replace(QUESTIONS[0], check=both)], seed=1)
    assert group[1].reward == 0.75  # "word 1"
    assert part_metrics(group[1:2]) == {"reward_of/has_word": 1.0, "reward_of/has_zebra": 0.0}


def test_prompts_that_cannot_have_a_check_are_refused_with_the_recipe() -> None:
    own = {"type": "jsonl", "path": "own.jsonl"}
    whole = {**own, "form": "conversation"}
    raw = {"kind": "grpo", "prompts": whole, "held_out": whole, "needs": ["sft", "rm"]}
    assert GrpoConfig.read(raw, where="x").num_prompts == 512
    for place, kind in (("prompts", "messages"), ("held_out", "text")):
        wrong = {**raw, place: {**own, "form": kind}}
        with pytest.raises(UserError, match=f"x: {place}: form '{kind}' has no checks; use form"):
            GrpoConfig.read(wrong, where="x")
        judged = {"kind": "model", "model": "rm"}  # asks for no check
        assert GrpoConfig.read({**wrong, "reward": judged}, where="x").reward.model == "rm"
        mixed = {"kind": "composite", "parts": {"rm": judged, "own": {}}}
        with pytest.raises(UserError, match=f"x: {place}: form"):
            GrpoConfig.read({**wrong, "reward": mixed}, where="x")
    pairs = {"kind": "reward_model", "prompts": own, "held_out": whole, "needs": ["sft"]}
    with pytest.raises(UserError, match="x: prompts: form 'messages' has no checks"):
        RewardModelConfig.read(pairs, where="x")


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
        ({"kind": "judge"}, "{kind: judge, judge: {endpoint:"),
        ({"kind": "composite"}, "with 0 parts"),
        ({"parts": {"a": {}}}, "'checker' with 1 parts"),
        ({"kind": "composite", "parts": {"a": {"weight": 0}}}, "every part has weight 0"),
        ({"kind": "composite", "parts": {"a": {"kind": "model", "model": "no"}}}, "'no' is not in"),
        ({"kind": "composite", "parts": {"a": {"kind": "composite"}}}, "parts.a.kind"),
    ):
        with pytest.raises(UserError, match=words):
            GrpoConfig.read({**raw, "reward": reward}, where="x")


def test_a_function_of_the_users_own_scores_in_place_of_the_checker(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """It sees each question with its own replies; one that it breaks on is never trained on."""
    (tmp_path / "mine.py").write_text(
        "def f(prompt, reply, reference):\n"
        "    if reply.answer.strip() == 'word 2': raise ValueError('two')\n"
        "    return {'value': float(len(reply.answer.split())), 'asked': prompt}\n"
    )
    own = FunctionReward(FunctionConfig(path=f"{tmp_path}/mine.py:f"))
    groups = _sampler(tokenizer, score=own).roll_out(QUESTIONS[:3], seed=0)
    for question, group in zip(QUESTIONS, groups, strict=False):
        worked = str((question.reply or {})["content"])
        assert [r.reward for r in group] == [len(worked.split()), 2.0, None]
        assert group[0].parts["asked"] == question.messages[0]["content"]
        assert group[2].status == "ValueError: two" and group[2].advantage is None
        assert group[0].checked == 1.0, "the check is still recorded"


def test_a_function_beside_the_checker(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def f(prompts, replies, references): return [0.5] * len(replies)"
    )
    own = FunctionReward(FunctionConfig(path=f"{tmp_path}/mine.py:f"))
    whole = CompositeReward({"right": (3.0, _checker), "own": (1.0, own)})
    (group,) = _sampler(tokenizer, score=whole).roll_out(QUESTIONS[:1], seed=0)
    assert [r.reward for r in group] == [0.875, 0.125, 0.125]
