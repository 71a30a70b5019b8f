"""Play tasks with a policy: many episodes side by side, one engine batch a turn."""

import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from engine.protocol import Completion, Engine, Request, Sampling, sample_seed
from environments.protocol import Environment, Task
from reward.verdict import Verdict, decided, failed
from workbench.chat import Reply, opens_trace, parse, prompt_ids, stop_ids
from workbench.conversation import Message


@dataclass(frozen=True)
class Turn:
    """One sampled reply: the ids it was sampled from, and what was sampled.

    Tool results, the user's words and older replies all stand in `prompt`.
    """

    prompt: list[int]
    completion: Completion


@dataclass
class Trajectory:
    """One episode. verdict: of the final state; value None where the episode broke."""

    task: Task
    messages: list[Message]
    tools: list[dict[str, Any]]
    turns: list[Turn] = field(default_factory=list)
    verdict: Verdict | None = None
    num_calls: int = 0

    @property
    def success(self) -> bool | None:
        """True or False; None where the episode broke and says nothing about the policy."""
        assert self.verdict is not None
        return None if self.verdict.value is None else self.verdict.value == 1.0

    def as_row(self) -> dict[str, Any]:
        """JSON-able, for logs."""
        assert self.verdict is not None
        return {
            "task": self.task.id,
            "messages": self.messages,
            "value": self.verdict.value,
            "status": self.verdict.status,
            "why": self.verdict.parts,
            "turns": len(self.turns),
            "calls": self.num_calls,
        }


@dataclass
class Player:
    """A policy and how it plays."""

    engine: Engine
    tokenizer: Any
    sampling: Sampling
    """n and seed are not read."""
    thinking: bool
    max_turns: int
    """Most replies of an episode; one that needs more has failed."""
    max_tokens: int
    """Longest prompt with its reply (the engine's limit); an episode that outgrows it has failed."""
    make: Callable[[str], Environment]

    def play(self, tasks: Sequence[Task], *, samples: int, seed: int) -> list[list[Trajectory]]:
        """`samples` episodes of each task, in order. The draws depend on (seed, task, sample, turn)."""
        games = [
            _Game(self.make(task.environment), Trajectory(task, list(task.messages), task.tools))
            for task in tasks
            for _ in range(samples)
        ]
        for game in games:
            game.environment.reset(game.trajectory.task)
        alive = list(range(len(games)))
        for turn in range(self.max_turns):
            alive = self._turn(games, alive, turn, samples, seed)
            if not alive:
                break
        for index in alive:
            games[index].trajectory.verdict = decided(0.0, reason=f"over {self.max_turns} turns")
        done = [game.trajectory for game in games]
        return [done[i : i + samples] for i in range(0, len(done), samples)]

    def _turn(
        self, games: Sequence["_Game"], alive: list[int], turn: int, samples: int, seed: int
    ) -> list[int]:
        """Sample one reply for each living episode; returns those that live on."""
        requests, asked = [], []
        sampling = replace(self.sampling, n=1, seed=None, stop_token_ids=stop_ids(self.tokenizer))
        for index in alive:
            game = games[index]
            prompt = game.prompt(self.tokenizer, self.thinking)
            # The first prompt is left to the engine, which says what is wrong with it.
            if turn and len(prompt) + sampling.max_tokens > self.max_tokens:
                game.trajectory.verdict = decided(0.0, reason="over the context length")
                continue
            name = f"{game.trajectory.task.id}/{turn}"
            requests.append(Request(prompt, sampling, sample_seed(seed, name, index % samples)))
            asked.append(index)
        for place, completion in self.engine.stream(requests):
            games[asked[place]].take(requests[place].prompt, completion, self.tokenizer)
        return [index for index in asked if games[index].trajectory.verdict is None]


@dataclass
class _Game:
    """An episode being played."""

    environment: Environment
    trajectory: Trajectory

    def prompt(self, tokenizer: Any, thinking: bool) -> list[int]:
        t = self.trajectory
        return prompt_ids(t.messages, tools=t.tools, thinking=thinking, tokenizer=tokenizer)

    def take(self, prompt: Sequence[int], completion: Completion, tokenizer: Any) -> None:
        """Carry out a reply; sets the verdict where the episode ends."""
        t = self.trajectory
        if completion.finish_reason == "error":
            t.verdict = failed(completion.error or "the engine failed")
            return
        t.turns.append(Turn(list(prompt), completion))
        reply = parse(completion.text, thinking=opens_trace(prompt, tokenizer))
        t.messages.append(_message(reply))
        if completion.finish_reason != "stop":  # a cut reply carries nothing out
            reply = replace(reply, tool_calls=None)
        t.num_calls += len(reply.tool_calls or [])
        try:
            step = self.environment.step(reply)
            t.messages.extend(step.messages)
            t.tools = step.tools if step.tools is not None else t.tools
            if step.done:
                t.verdict = self.environment.verify()
        except Exception as error:  # noqa: BLE001 - a broken world is a status, never a score
            traceback.print_exc()
            t.verdict = failed(f"{type(error).__name__}: {error}"[:300])


def _message(reply: Reply) -> Message:
    message: Message = {"role": "assistant", "content": reply.answer}
    if reply.thinking:
        message["reasoning_content"] = reply.thinking
    if reply.tool_calls:
        message["tool_calls"] = [{"type": "function", "function": c} for c in reply.tool_calls]
    return message
