"""Episodes with a scripted policy: what is sampled from what, and what each ending means."""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from engine.protocol import Completion, Request, Sampling
from engine.scripted import ScriptedEngine
from environments.house import House, tasks
from environments.protocol import Step, Task, ToolCall
from environments.rollout import Player, Trajectory
from reward.verdict import Verdict, decided
from tests.unit.workbench.test_chat_foreign import chatml
from workbench.chat import Reply, stop_ids

TASKS = tasks("rl", 6, 3, requests=(2, 2))


def _reply(calls: Sequence[ToolCall]) -> str:
    trace = "I see.\n</think>\n\n"
    return trace + (f"<TOOLCALL>{json.dumps(list(calls))}</TOOLCALL>\n" if calls else "Done.\n")


def _player(
    tokenizer: Any, write: Callable[[str, int], str], make: Callable[[str], Any] | None = None
) -> Player:
    """`write` is given the prompt's text and the sample's number."""

    def script(prompt: Sequence[int], sample: int) -> list[int]:
        text = write(tokenizer.decode(prompt), sample)
        return [*tokenizer.encode(text, add_special_tokens=False), *stop_ids(tokenizer)]

    engine = ScriptedEngine(script, lambda ids: tokenizer.decode(ids, skip_special_tokens=True))
    return Player(
        engine, tokenizer, Sampling(max_tokens=400), True, 4, 4000, make or (lambda name: House())
    )


def _flat(groups: list[list[Trajectory]]) -> list[Trajectory]:
    return [t for group in groups for t in group]


def _solver(prompt: str, sample: int) -> str:
    """One call a turn, then the end; odd samples forget the second call."""
    task = next(t for t in TASKS if t.messages[0]["content"] in prompt)
    done = prompt.count("<TOOL_RESPONSE>")
    calls = task.data["calls"][: 1 if sample % 2 else 2]
    return _reply(calls[done : done + 1])


def test_a_solver_succeeds_and_its_turns_chain(tokenizer: PreTrainedTokenizerFast) -> None:
    groups = _player(tokenizer, _solver).play(TASKS, samples=2, seed=1)
    assert [[t.success for t in g] for g in groups] == [[True, False]] * 6
    for good, short in groups:
        assert len(good.turns) == 3 and len(short.turns) == 2
        assert [m["role"] for m in good.messages] == [
            "user", "assistant", "tool", "assistant", "tool", "assistant",
        ]  # fmt: skip
        second = tokenizer.decode(good.turns[1].prompt)
        # Older replies stand in the prompt without their trace, and tool results only in prompts.
        assert second.count("I see.") == 0 and second.count('<TOOL_RESPONSE>["ok"]') == 1
        sampled = [tokenizer.decode(t.completion.token_ids) for t in good.turns]
        assert not any("TOOL_RESPONSE" in text for text in sampled)
        assert all("I see." in text for text in sampled)


def test_endless_calling_fails_and_so_does_a_cut_reply(tokenizer: PreTrainedTokenizerFast) -> None:
    call = {"name": "set_timer", "arguments": {"minutes": 5}}
    (loop,) = _flat(
        _player(tokenizer, lambda p, s: _reply([call])).play(TASKS[:1], samples=1, seed=1)
    )
    assert loop.success is False and len(loop.turns) == 4
    assert loop.verdict is not None and loop.verdict.parts["reason"] == "over 4 turns"
    short = _player(tokenizer, _solver)
    short.sampling = replace(short.sampling, max_tokens=30)
    (cut,) = _flat(short.play(TASKS[:1], samples=1, seed=1))
    assert cut.success is False and cut.num_calls == 0
    narrow = _player(tokenizer, _solver)
    narrow.max_tokens = 500
    (outgrown,) = _flat(narrow.play(TASKS[:1], samples=1, seed=1))
    assert (
        outgrown.verdict is not None
        and outgrown.verdict.parts["reason"] == "over the context length"
    )


class _Broken(House):
    def step(self, reply: Reply) -> Step:
        raise OSError("disk full")


def test_a_breakdown_is_no_verdict(tokenizer: PreTrainedTokenizerFast) -> None:
    (broken,) = _flat(
        _player(tokenizer, _solver, lambda name: _Broken()).play(TASKS[:1], samples=1, seed=1)
    )
    assert broken.success is None and broken.verdict is not None
    assert broken.verdict.parts["reason"] == "OSError: disk full"

    player = _player(tokenizer, _solver)

    def stream(requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        for place, _ in enumerate(requests):
            yield place, Completion([], [], "", "error", error="out of memory")

    player.engine.stream = stream  # type: ignore[method-assign]
    (lost,) = _flat(player.play(TASKS[:1], samples=1, seed=1))
    assert lost.success is None and lost.turns == []


def test_every_request_has_a_seed_of_its_own(tokenizer: PreTrainedTokenizerFast) -> None:
    player, seeds = _player(tokenizer, _solver), list[int | None]()
    plain = player.engine.stream

    def stream(requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        seeds.extend(r.seed for r in requests)
        return plain(requests)

    player.engine.stream = stream  # type: ignore[method-assign]
    player.play(TASKS, samples=2, seed=1)
    first = list(seeds)
    assert len(set(first)) == len(first) == 6 * (3 + 2)
    seeds.clear()
    player.play(TASKS, samples=2, seed=1)
    assert seeds == first
    seeds.clear()
    # A task's draws do not depend on the tasks beside it.
    player.play(TASKS[2:3], samples=2, seed=1)
    assert set(seeds) <= set(first)
    seeds.clear()
    player.play(TASKS, samples=2, seed=2)
    assert not set(seeds) & set(first)


class _TwoTurns:
    """A world whose user speaks twice and brings a tool the second time."""

    def reset(self, task: Task) -> None:
        self.turn = 0

    def step(self, reply: Reply) -> Step:
        self.turn += 1
        if self.turn == 1:
            return Step([{"role": "user", "content": "And now?"}], tools=[{"name": "late_tool"}])
        return Step(done=True)

    def verify(self) -> Verdict:
        return decided(1.0)

    def gold(self) -> list[list[ToolCall]]:
        return [[], []]


def test_the_user_may_speak_again_and_tools_may_change(tokenizer: PreTrainedTokenizerFast) -> None:
    player = _player(tokenizer, lambda p, s: _reply([]), lambda name: _TwoTurns())
    (seen,) = _flat(player.play(TASKS[:1], samples=1, seed=1))
    assert seen.success and [m["role"] for m in seen.messages] == [
        "user", "assistant", "user", "assistant",
    ]  # fmt: skip
    assert "late_tool" in tokenizer.decode(seen.turns[1].prompt)
    assert "late_tool" not in tokenizer.decode(seen.turns[0].prompt)


def test_a_row_is_json(tokenizer: PreTrainedTokenizerFast) -> None:
    (done,) = _flat(_player(tokenizer, _solver).play(TASKS[:1], samples=1, seed=1))
    row = json.loads(json.dumps(done.as_row()))
    assert row["value"] == 1.0 and row["turns"] == 3 and row["calls"] == 2


@pytest.mark.parametrize("name", ["nowhere", "House"])
def test_unknown_environment(name: str) -> None:
    from environments.catalogue import make_environment

    with pytest.raises(ValueError, match="no environment"):
        make_environment(name)


HERMES = (
    "{% if tools %}<|im_start|>system\nAnswer with <tool_call>.{{ tools | tojson }}<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<tool_call>\n{{ c.function | tojson }}\n</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MISTRAL = HERMES.replace("<tool_call>", "[TOOL_CALLS]").replace("</tool_call>", "")


@pytest.mark.parametrize(
    ("template", "write"),
    [
        (HERMES, lambda calls: "".join(f"<tool_call>{json.dumps(c)}</tool_call>" for c in calls)),
        (MISTRAL, lambda calls: f"[TOOL_CALLS] {json.dumps(calls)}"),
    ],
)
def test_calls_are_read_as_the_models_own_template_writes_them(
    template: str, write: Callable[[list[ToolCall]], str]
) -> None:
    """A policy of another family plays the house in its own syntax."""
    tokenizer = chatml(template)

    def solve(prompt: str, sample: int) -> str:
        task = next(t for t in TASKS if t.messages[0]["content"] in prompt)
        return "Done." if "<|im_start|>tool" in prompt else write(list(task.data["calls"]))

    player = _player(tokenizer, solve)
    player.thinking, player.max_tokens = False, 20_000
    player.sampling = replace(player.sampling, max_tokens=4000)
    found = _flat(player.play(TASKS[:3], samples=1, seed=1))
    assert [t.success for t in found] == [True] * 3
    assert [t.num_calls for t in found] == [2] * 3
