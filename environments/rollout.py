"""One loop asks: prompts -> engine -> parse -> environment -> verdict, whoever wants the replies.

What is asked is an environment: a question with a check is one of a single turn (environments.question), a
tool world one of several. `Episode` is one of them being played; `Player` plays many side by side.

- `waves` is the loop: every living episode is asked at once, in one engine batch; each reply is taken as
  it ends, in threads; those that go on make the next wave. Single questions live for one wave.
- A reply is parsed as its prompt ended: `opens_trace` of the prompt's ids, not what was asked for; its tool
  calls as the tokenizer's own template writes them (workbench.chat.reply_format).
- A cut reply carries no call out. A prompt that outgrows the context ends its episode as a failure.
- Verdicts are taken when all have ended, some at a time, each once more where it broke, all within
  `check_limit_s`. Nothing that a model wrote is ever run in this process by this loop.
- A failed generation, a broken world and a check that did not decide are statuses without a value. They
  are not a reward, a score or a pair.
- Every draw has a seed of its own: of (seed, task, sample, turn). `by_place` names a task by its place in
  the call, as one engine call over the prompts would (GRPO, reward models); else by its id (DPO).
- Token-exact: a `Turn` keeps the ids that a reply was sampled from, and its own. Tool results, the
  user's words and older replies are prompt there, so they carry no loss. A chat format may show an older
  reply otherwise than it was sampled (without its trace): then the next turn's ids do not begin with
  this one's, and whoever trains on them gives it a document of its own. With `keep_prefix` they do begin
  with them, but where the environment begins its messages anew or changes its tools.

Who plays: GRPO (rl.sample: groups, advantages), DPO (rl.dpo: a success against a failure), pairs of a
reward model (rl.reward_model.pairs). Synthesis (evals.synthesis.drive) asks by the same `waves`, several
prompts of one item at a time. Evaluations (evals.run) go through the same `waves`, `Episode` and
`checked`; they take a served model too, judge each sample as it ends and keep it, and judge kept
replies anew. So any environment can be trained on (grpo, dpo) and evaluated (evals.tasks.environments).
"""

import contextlib
import traceback
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from engine.protocol import Completion, Engine, Request, Sampling, sample_seed
from environments.catalogue import make_environment
from environments.episode import Episode
from environments.protocol import Environment, EnvironmentFailed, Task
from reward.pool import decide_all
from reward.verdict import Verdict, failed
from workbench.chat import (
    ReplyFormat,
    kept_prompt,
    opens_trace,
    prompt_ids,
    reply_format,
    stop_ids,
)
from workbench.conversation import Message
from workbench.errors import UserError, one_line

_T = TypeVar("_T")
_R = TypeVar("_R")
# (place among those asked, reply), as each ends.
Replies = Generator[tuple[int, Completion], None, None]
# Worlds wait for processes of their own, or are quick.
_TAKERS = 8


def waves(
    first: Sequence[_T],
    replies: Callable[[Sequence[_T], int], Generator[tuple[int, _R], None, None]],
    take: Callable[[_T, _R], bool],
    threads: Executor,
    *,
    settled: Callable[[], object] = lambda: None,
) -> None:
    """Ask all, take each reply as it ends, and go on with those of which `take` says so.

    replies(items, turn): (place, reply) as each ends; an item that it gives no reply for is over.
    take: in one of the threads. settled: called after each, at the end of a wave. What `replies` raises
    ends the loop once all that was taken is done.
    """
    waiting, turn = list(first), 0
    while waiting:
        taken: dict[int, Future[bool]] = {}
        with contextlib.closing(replies(waiting, turn)) as stream:
            try:
                for place, completion in stream:
                    taken[place] = threads.submit(take, waiting[place], completion)
            finally:
                going = []
                for place, future in sorted(taken.items()):
                    going += [waiting[place]] if future.result() else []
                    settled()
        waiting, turn = going, turn + 1


@dataclass(frozen=True)
class Turn:
    """One sampled reply: the ids it was sampled from, and what was sampled.

    Tool results, the user's words and older replies all stand in `prompt`.
    """

    prompt: list[int]
    completion: Completion


@dataclass
class Trajectory:
    """One episode. verdict: of the final state; value None where the episode broke. lost: the turn
    whose generation failed."""

    task: Task
    messages: list[Message]
    tools: list[dict[str, Any]]
    turns: list[Turn] = field(default_factory=list)
    verdict: Verdict | None = None
    num_calls: int = 0
    lost: Turn | None = None
    rewards: list[float | None] = field(default_factory=list)
    """What each reply earned, where the environment pays turn by turn; the verdict has the sum in it."""

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
    max_turns: int | None = None
    """Most replies of an episode; one that needs more has failed. None: its environment's own end."""
    max_tokens: int | None = None
    """Longest prompt with its reply (the engine's limit); an episode that outgrows it has failed."""
    make: Callable[[str], Environment] = make_environment
    keep_prefix: bool = False
    """The prompt of a turn begins with the very tokens of the turns before, traces included; else with the
    chat template's rendering of them."""
    episode_tokens: int | None = None
    """Most tokens that an episode samples in all its replies; one that needs more has failed."""
    by_place: bool = False
    """Name a task in its seeds by its place in the call, and not by its id."""
    check_limit_s: float | None = None
    """For all verdicts of one `play`; those undecided by then have status "timeout"."""
    _format: ReplyFormat = field(init=False, default_factory=ReplyFormat)

    def play(
        self,
        tasks: Sequence[Task],
        *,
        samples: int,
        seed: int,
        modes: Sequence[bool] | None = None,
    ) -> list[list[Trajectory]]:
        """`samples` episodes of each task, in order. modes: of each task whether it thinks, where they
        differ. Raises: UserError where a task's check is wrong."""
        self._format = reply_format(self.tokenizer)
        thinks = modes if modes is not None else [self.thinking] * len(tasks)
        games = [
            _Game(self._episode(task), on, place, sample)
            for place, (task, on) in enumerate(zip(tasks, thinks, strict=True))
            for sample in range(samples)
        ]
        with ThreadPoolExecutor(_TAKERS, thread_name_prefix="take") as threads:
            waves(games, partial(self._replies, seed), self._take, threads)
        open_ones = [game for game in games if game.verdict is None]
        verdicts = decide_all(
            [partial(_verdict, game.episode) for game in open_ones], timeout_s=self.check_limit_s
        )
        for game, verdict in zip(open_ones, verdicts, strict=True):
            game.verdict = verdict
        for game in games:
            # A check that was given up may still be under way; its world ends with it.
            if game.verdict is not None and game.verdict.status != "timeout":
                game.episode.close()
        done = [game.trajectory() for game in games]
        return [done[i : i + samples] for i in range(0, len(done), samples)]

    def _episode(self, task: Task) -> Episode:
        return Episode(self.make(task.environment), task, max_turns=self.max_turns)

    def _replies(self, seed: int, games: Sequence["_Game"], turn: int) -> Replies:
        """One reply for each episode; one that has outgrown the context is over."""
        requests, asked = [], []
        sampling = replace(self.sampling, n=1, seed=None, stop_token_ids=stop_ids(self.tokenizer))
        first: dict[int, list[int]] = {}  # samples of a task begin with one prompt
        for index, game in enumerate(games):
            prompt = first.get(game.place) if turn == 0 else None
            if prompt is None:
                prompt = first[game.place] = game.ask(self.tokenizer, keep=self.keep_prefix)
            game.prompt = prompt
            # The first prompt is left to the engine, which says what is wrong with it.
            if turn and self.max_tokens and len(prompt) + sampling.max_tokens > self.max_tokens:
                game.verdict = game.episode.failure("over the context length")
                continue
            own = self._within(sampling, game)
            if own.max_tokens < 1:
                game.verdict = game.episode.failure(f"over {self.episode_tokens} tokens")
                continue
            requests.append(Request(prompt, own, self._seed(game, turn, seed)))
            asked.append(index)
        for place, completion in self.engine.stream(requests):
            yield asked[place], completion

    def _within(self, sampling: Sampling, game: "_Game") -> Sampling:
        """The sampling with the tokens that are left to the episode."""
        if self.episode_tokens is None:
            return sampling
        left = self.episode_tokens - sum(len(t.completion.token_ids) for t in game.turns)
        return replace(sampling, max_tokens=min(sampling.max_tokens, left))

    def _take(self, game: "_Game", completion: Completion) -> bool:
        game.take(completion, self._format, self.tokenizer)
        return game.goes_on

    def _seed(self, game: "_Game", turn: int, seed: int) -> int:
        if self.by_place and turn == 0:
            return sample_seed(seed, game.place, game.sample)
        name = game.place if self.by_place else game.episode.task.id
        return sample_seed(seed, f"{name}/{turn}", game.sample)


def _verdict(episode: Episode) -> Verdict:
    try:
        return episode.verdict()
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - a broken world is a status, never a score
        return _broken(error)


def _broken(error: Exception) -> Verdict:
    if isinstance(error, EnvironmentFailed):
        return error.verdict
    traceback.print_exc()
    return failed(one_line(error, 300))


@dataclass
class _Game:
    """An episode and what was sampled in it."""

    episode: Episode
    thinking: bool
    place: int
    sample: int
    prompt: list[int] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)
    verdict: Verdict | None = None
    lost: Turn | None = None

    @property
    def goes_on(self) -> bool:
        return self.verdict is None and self.episode.ask() is not None

    def ask(self, tokenizer: Any, *, keep: bool) -> list[int]:
        """What to sample the next reply from."""
        e = self.episode
        if keep and self.turns and e.continues:
            last = self.turns[-1]
            kept = kept_prompt(
                last.prompt, last.completion.token_ids, e.messages,
                tools=e.tools, thinking=self.thinking, tokenizer=tokenizer,
            )  # fmt: skip
            if kept is not None:
                return kept
        return prompt_ids(e.messages, tools=e.tools, thinking=self.thinking, tokenizer=tokenizer)

    def take(self, completion: Completion, form: ReplyFormat, tokenizer: Any) -> None:
        """Carry out a reply; sets the verdict where the generation or the world broke."""
        if completion.finish_reason == "error":
            self.lost = Turn(list(self.prompt), completion)
            self.verdict = failed(completion.error or "the engine failed")
            return
        self.turns.append(Turn(list(self.prompt), completion))
        reply = form.read(completion.text, opened=opens_trace(self.prompt, tokenizer))
        if completion.finish_reason != "stop":
            reply = replace(reply, tool_calls=None)
        try:
            self.episode.answer(reply)
        except Exception as error:  # noqa: BLE001 - a broken world is a status, never a score
            self.verdict = _broken(error)

    def trajectory(self) -> Trajectory:
        e = self.episode
        return Trajectory(
            e.task, e.messages, e.tools, self.turns, self.verdict, e.num_calls, self.lost, e.rewards
        )
