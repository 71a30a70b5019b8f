"""GRPO over an environment: whole episodes share a reward, and what a tool returned carries no loss."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from engine.protocol import Completion, Request, Sampling, requests_of
from engine.scripted import ScriptedEngine
from environments.config import EnvironmentSource
from environments.house import tasks
from environments.rollout import Turn
from model.hybrid import build_config, load_model
from model.logprobs import Truncation
from reward.verdict import Verdict, decided
from rl.config import GrpoConfig
from rl.prefetch import StalenessError, check_versions
from rl.rollout_log import RolloutLog
from rl.sample import Rollout, Sampler
from rl.update import pack, reply_logprobs, segments, totals_of
from tests.unit.workbench.test_chat_foreign import CHATML, chatml
from workbench.chat import stop_ids
from workbench.conversation import CheckSpec, Conversation
from workbench.errors import UserError

TASKS = tasks("rl", 3, 3, requests=(2, 2))


def _done(ids: list[int], version: int = 0) -> Completion:
    size = len(ids)
    return Completion(ids, [-1.0] * size, "", "stop", [False] * size, [version] * size)


def _sampler(tokenizer: Any, **fields: Any) -> Sampler:
    """One call a turn, then the end; the second sample forgets the second call."""
    nano = tokenizer.get_added_vocab().get("<SPECIAL_12>") is not None

    def script(prompt: Sequence[int], sample: int) -> list[int]:
        text = tokenizer.decode(prompt)
        task = next(t for t in TASKS if t.messages[0]["content"] in text)
        done = text.count("<TOOL_RESPONSE>")
        calls = task.data["calls"][done : done + 1] if done == 0 or sample == 0 else []
        said = f"<TOOLCALL>{json.dumps(calls)}</TOOLCALL>" if calls else "Done."
        said = f"I see.\n</think>\n\n{said}\n" if nano else said
        return [*tokenizer.encode(said, add_special_tokens=False), *stop_ids(tokenizer)]

    engine = ScriptedEngine(script, lambda ids: tokenizer.decode(ids, skip_special_tokens=True))
    return Sampler(
        engine, tokenizer, Sampling(max_tokens=200, n=2), True, "mean", max_turns=4, **fields
    )


def test_an_episode_is_one_reply_of_its_group(tokenizer: PreTrainedTokenizerFast) -> None:
    groups = _sampler(tokenizer).roll_out(TASKS, seed=1)
    for good, short in groups:
        assert (good.reward, short.reward) == (1.0, 0.0)
        assert (good.advantage, short.advantage) == (0.5, -0.5)
        assert (len(good.turns), len(short.turns)) == (3, 2)
        assert good.num_tokens == sum(len(t.completion.token_ids) for t in good.turns)
        sampled = "".join(tokenizer.decode(t.completion.token_ids) for t in good.turns)
        assert "TOOL_RESPONSE" not in sampled and sampled.count("<TOOLCALL>") == 2
        assert "TOOL_RESPONSE" in tokenizer.decode(good.turns[1].prompt)
    again = _sampler(tokenizer).roll_out(TASKS, seed=1)
    assert again == groups


def test_what_a_tool_returned_carries_no_loss(tokenizer: PreTrainedTokenizerFast) -> None:
    groups = _sampler(tokenizer).roll_out(TASKS, seed=1)
    flat = [r for group in groups for r in group]
    rows = pack(flat, 100_000)
    (row,) = rows
    # Exactly the sampled tokens, each once, behind the very ids that it was sampled from.
    turns = [turn for r in flat for turn in r.turns]
    assert row.target.tolist() == [t for turn in turns for t in turn.completion.token_ids]
    assert row.input_ids[row.position + 1].tolist() == row.target.tolist()
    assert row.mask.all()
    assert "TOOL_RESPONSE" not in tokenizer.decode(row.target)
    assert totals_of(rows).sequences == len(flat) == 6
    place = 0
    for turn in turns:
        first = int(row.position[place])
        document = row.document == row.document[first]
        before = row.input_ids[: first + 1][document[: first + 1]]
        assert before.tolist() == turn.prompt
        place += len(turn.completion.token_ids)


def test_the_prefix_is_kept_where_the_format_keeps_it(tokenizer: PreTrainedTokenizerFast) -> None:
    """Nano v2's format drops older traces, so a turn begins anew; a template without them goes on."""
    for made, documents in ((tokenizer, 3), (chatml(CHATML), 1)):
        good = _sampler(made).roll_out(TASKS[:1], seed=1)[0][0]
        assert [s.begins for s in segments(good)].count(True) == documents
        row = pack([good], 100_000)[0]
        assert int(row.document.max()) + 1 == documents
        if documents == 1:
            last = good.turns[-1]
            assert row.input_ids.tolist() == [*last.prompt, *last.completion.token_ids]


def _episode() -> Rollout:
    """Two turns that go on, and one whose prompt shows the past otherwise."""
    first = Turn([4, 9, 11], _done([30, 31, 2]))
    second = Turn([4, 9, 11, 30, 31, 2, 50, 51], _done([32, 2]))
    third = Turn([4, 9, 11, 31, 2, 50, 51, 32, 2, 60], _done([33, 34, 2]))
    return Rollout(first.prompt, first.completion, 1.0, 0.5, "ok", later=(second, third))


def test_a_turns_logprobs_are_those_of_the_turn_by_itself() -> None:
    shape = build_config(
        pattern="M-*-", hidden_size=32, intermediate_size=64, mamba_num_heads=4, mamba_head_dim=16,
        n_groups=2, ssm_state_size=8, num_attention_heads=4, num_key_value_heads=2, head_dim=8,
        vocab_size=320,
    )  # fmt: skip
    model = load_model(shape, seed=5)
    other = Rollout([7, 8], _done([40, 2]), 0.0, -0.5, "ok")
    episode = _episode()
    (row,) = pack([episode, other], 1000)
    assert row.document.tolist() == [0] * 10 + [1] * 13 + [2] * 4
    assert row.sequence.tolist() == [0] * 8 + [1] * 2
    assert len(pack([episode, other], 25)) == 2
    found, _ = reply_logprobs(model, row, Truncation())
    expected = []
    for turn in (*episode.turns, *other.turns):
        alone = Rollout(turn.prompt, turn.completion, 1.0, 1.0, "ok")
        expected.append(reply_logprobs(model, pack([alone], 1000)[0], Truncation())[0])
    torch.testing.assert_close(found, torch.cat(expected), atol=1e-5, rtol=1e-5)


def test_every_turn_has_its_version() -> None:
    episode = _episode()
    check_versions([[episode]], 0, 0)
    late = Rollout(
        episode.prompt, episode.completion, 1.0, 0.5, "ok", later=(Turn([4], _done([5], 3)),)
    )
    with pytest.raises(StalenessError, match="version 3"):
        check_versions([[late]], 2, 2)


def test_all_turns_are_on_record(tokenizer: PreTrainedTokenizerFast, tmp_path: Any) -> None:
    groups = _sampler(tokenizer).roll_out(TASKS[:1], seed=1)
    RolloutLog(tmp_path / "r.jsonl", tokenizer, 1).write(1, groups)
    rows = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert [len(row["later"]) for row in rows] == [2, 1]
    assert "TOOL_RESPONSE" in rows[0]["later"][0]["prompt"]


def test_the_draws_of_questions_are_those_of_one_call_of_the_engine(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Seeds go by a prompt's place, as in `Engine.generate`; later turns have seeds of their own."""
    sampler, asked = _sampler(tokenizer), list[list[Request]]()
    plain = sampler.engine.stream

    def stream(requests: Sequence[Request]) -> Any:
        asked.append(list(requests))
        return plain(requests)

    sampler.engine.stream = stream  # type: ignore[method-assign]
    groups = sampler.roll_out(TASKS, seed=7)
    prompts = [group[0].prompt for group in groups]
    same = requests_of(prompts, replace(sampler.sampling, seed=7))
    assert [(r.prompt, r.seed) for r in asked[0]] == [(r.prompt, r.seed) for r in same]
    seeds = [request.seed for wave in asked for request in wave]
    assert len(set(seeds)) == len(seeds) == 3 * (3 + 2)


def test_a_function_of_ones_own_is_given_what_was_asked(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = []

    def check(kind: str, text: str, reference: Any, **options: Any) -> Verdict:
        given.append((kind, reference, options.get("prompt")))
        return decided(1.0)

    monkeypatch.setattr("environments.question.check", check)
    messages = [{"role": "user", "content": TASKS[0].messages[0]["content"]}]
    for kind in ("mine:score", "math"):
        question = Conversation("q", "d", messages, check=CheckSpec(kind, "49"))
        _sampler(tokenizer).roll_out([question], seed=1)
    assert given[0] == ("mine:score", "49", messages) and given[-1] == ("math", "49", None)


HOUSE = {"type": "environment", "tasks": {"type": "house", "split": "rl"}}


def test_a_recipe_names_the_environment_where_it_names_prompts() -> None:
    config = GrpoConfig.read({"kind": "grpo", "prompts": HOUSE, "held_out": HOUSE}, where="grpo")
    assert isinstance(config.prompts, EnvironmentSource) and config.prompts.tasks.type == "house"
    for wrong in (
        {"reward_options": {"mode": "fraction"}},
        {"reward": {"kind": "model", "model": "rm"}},
    ):
        with pytest.raises(UserError, match="leave reward and"):
            GrpoConfig.read(
                {"kind": "grpo", "prompts": HOUSE, "held_out": HOUSE, "needs": ["rm"], **wrong},
                where="grpo",
            )
    with pytest.raises(UserError, match="did you mean"):
        GrpoConfig.read(
            {"kind": "grpo", "prompts": {**HOUSE, "type": "enviroment"}, "held_out": HOUSE},
            where="g",
        )
