"""Turns behind the very tokens that were sampled: nothing is tokenized again, and limits hold over turns."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from engine.protocol import Sampling
from engine.scripted import ScriptedEngine
from environments.house import House, tasks
from environments.rollout import Player, Trajectory
from rl.sample import Rollout
from rl.update import segments
from tests.unit.workbench.test_chat_foreign import CHATML, chatml
from workbench.chat import kept_prompt, prompt_ids, stop_ids

TASKS = tasks("rl", 2, 3, requests=(2, 2))


def _split(tokenizer: Any, text: str) -> list[int]:
    """The text letter by letter: ids that no tokenizer would make of it."""
    return [i for letter in text for i in tokenizer.encode(letter, add_special_tokens=False)]


def _play(tokenizer: Any, **fields: Any) -> list[Trajectory]:
    nano = tokenizer.get_added_vocab().get("<SPECIAL_12>") is not None

    def script(prompt: Sequence[int], sample: int) -> list[int]:
        text = tokenizer.decode(prompt)
        task = next(t for t in TASKS if t.messages[0]["content"] in text)
        calls = task.data["calls"][(done := text.count("<TOOL_RESPONSE>")) : done + 1]
        said = f"<TOOLCALL>{json.dumps(calls)}</TOOLCALL>" if calls else "Done."
        return [*_split(tokenizer, f"I see.\n</think>\n\n{said}\n" if nano else said),
                *stop_ids(tokenizer)]  # fmt: skip

    engine = ScriptedEngine(script, lambda ids: tokenizer.decode(ids, skip_special_tokens=True))
    player = Player(
        engine, tokenizer, Sampling(max_tokens=400), nano, 4, 9000, lambda name: House(), **fields
    )
    return [group[0] for group in player.play(TASKS, samples=1, seed=1)]


@pytest.mark.parametrize("nano", [True, False])
def test_a_turn_begins_with_the_very_tokens_of_those_before(
    tokenizer: PreTrainedTokenizerFast, nano: bool
) -> None:
    own = tokenizer if nano else chatml(CHATML)
    for played in _play(own, keep_prefix=True):
        assert played.success and len(played.turns) == 3
        seen: list[int] = []
        for turn in played.turns:
            assert turn.prompt[: len(seen)] == seen
            seen = [*turn.prompt, *turn.completion.token_ids]
        first, *later = played.turns
        rollout = Rollout(first.prompt, first.completion, 1.0, 1.0, "ok", later=tuple(later))
        # One document: each sampled token once, and between them only what the tools returned.
        assert [s.begins for s in segments(rollout)] == [True, False, False]
        between = own.decode(segments(rollout)[1].before)
        assert "ok" in between and "TOOLCALL" not in between and "I see" not in between
        # What it stands behind is what the template writes behind the same reply, token for token.
        told = own.decode(prompt_ids(played.messages[:3], played.tools, nano, tokenizer=own))
        assert told.endswith(own.decode(segments(rollout)[1].before[-8:]))


def test_without_it_an_older_reply_is_written_anew(tokenizer: PreTrainedTokenizerFast) -> None:
    for played in _play(tokenizer):
        first, *later = played.turns
        rollout = Rollout(first.prompt, first.completion, 1.0, 1.0, "ok", later=tuple(later))
        assert [s.begins for s in segments(rollout)] == [True, True, True]


def test_a_cut_reply_is_ended_in_the_prompt(tokenizer: PreTrainedTokenizerFast) -> None:
    messages = [
        {"role": "user", "content": "Go."},
        {"role": "assistant", "content": "abc"},
        {"role": "tool", "content": "ok"},
    ]
    end = stop_ids(tokenizer)[0]
    whole = kept_prompt([1, 2], [7, end], messages, tokenizer=tokenizer)
    cut = kept_prompt([1, 2], [7], messages, tokenizer=tokenizer)
    assert whole == cut and whole is not None
    assert whole[:4] == [1, 2, 7, end] and whole.count(end) == 1
    assert "<TOOL_RESPONSE>" in tokenizer.decode(whole[4:]) and "abc" not in tokenizer.decode(whole)


def test_an_episode_has_so_many_tokens_in_all(tokenizer: PreTrainedTokenizerFast) -> None:
    (whole, _) = _play(tokenizer)
    sizes = [len(t.completion.token_ids) for t in whole.turns]
    (enough, _) = _play(tokenizer, episode_tokens=sum(sizes))
    assert enough.success
    (short, _) = _play(tokenizer, episode_tokens=sizes[0])
    assert short.success is False and len(short.turns) == 1
    assert short.verdict.parts["reason"] == f"over {sizes[0]} tokens"  # type: ignore[union-attr]
    (less, _) = _play(tokenizer, episode_tokens=sizes[0] + 5)
    assert [len(t.completion.token_ids) for t in less.turns] == [sizes[0], 5]
    assert less.success is False
