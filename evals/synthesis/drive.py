"""Plays pieces of work side by side: asks, keeps every reply by digest, sends them in, takes outcomes.

The one place of synthesis that asks. Replies come through evals' responders, the waves of
environments.rollout and the log of engine.replies.
"""

import queue
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from engine.protocol import Completion, Sampling, sample_seed
from engine.replies import ReplyLog, reply_key
from environments.rollout import waves
from evals.responder import Ask, Responder
from evals.synthesis.work import (
    WRITER,
    AskAgain,
    GateRefusal,
    Lost,
    Outcome,
    Piece,
    Replied,
    Reply,
    Wanted,
)
from workbench.conversation import Conversation
from workbench.errors import StopRequested, UserError, one_line

_TAKERS = 2
# So many errors of one model in a row, and none of its replies, are no row's fault.
DEAD_AFTER = 24


@dataclass(frozen=True)
class Voice:
    """A model and how it is sampled. identity: what tells its replies from another's.
    responder: made when the first reply is missing."""

    name: str
    identity: str
    sampling: Sampling
    thinking: bool
    start: Callable[[], Responder]


@dataclass(frozen=True)
class Played:
    """How a piece ended: outcomes, as many as it has rows, or why it failed."""

    piece: Piece
    outcomes: tuple[Outcome, ...] = ()
    failed: str = ""


@dataclass
class _Play:
    """A piece being played."""

    piece: Piece
    wanted: Sequence[Wanted] = ()
    outcomes: list[Outcome] | None = None
    failed: str = ""

    def advance(self, replies: list[list[Reply]] | None) -> bool:
        """Send the replies in; whether the piece asks for more."""
        try:
            self.wanted = (
                self.piece.work.send(replies) if replies is not None else next(self.piece.work)
            )
            return True
        except StopIteration as end:
            self.outcomes = list(end.value)
            if len(self.outcomes) != self.piece.rows:
                raise AssertionError(
                    f"{self.piece.id}: {len(self.outcomes)} outcomes of {self.piece.rows} rows"
                ) from None
        except AskAgain as error:
            self.failed = str(error)
        except (UserError, AssertionError):
            raise
        except Exception as error:  # noqa: BLE001 - a broken task is a failed row, never a removed one
            self.failed = one_line(error)
        return False


@dataclass
class _Open:
    """One reply to get: of which play, prompt and sample, and which try it is."""

    play: int
    prompt: int
    sample: int
    wanted: Wanted
    voice: Voice
    name: str
    attempt: int = 0

    def sampling(self) -> Sampling:
        return (
            replace(self.voice.sampling, temperature=0.0)
            if self.wanted.greedy
            else self.voice.sampling
        )

    def thinking(self) -> bool:
        return self.voice.thinking if self.wanted.thinking is None else self.wanted.thinking


@dataclass
class Driver:
    """roles: role -> voice; roles that are not there are the piece's own model's.

    attempts: how often a reply that was cut is sampled anew, each with a seed of its own. generation:
    how often these pieces have been finished before and some of them failed; each time allows as many
    attempts again. watch: called as replies come; True stops.
    """

    voices: Mapping[str, Voice]
    roles: Mapping[str, str]
    log: ReplyLog
    seed: int
    attempts: int = 2
    generation: int = 1
    watch: Callable[[int], bool] = lambda fresh: False
    fresh: int = 0
    _responders: dict[str, Responder] = field(default_factory=dict)
    _errors: Counter[str] = field(default_factory=Counter)

    def play(self, pieces: Sequence[Piece]) -> list[Played]:
        """Every piece to its end, in order. Raises: StopRequested; UserError where a model answers no more."""
        plays = [_Play(piece) for piece in pieces]
        first = [play for play in plays if play.advance(None)]
        with ThreadPoolExecutor(_TAKERS, thread_name_prefix="synthesis") as threads:
            waves(first, self._replies, _Play.advance, threads)
        return [Played(p.piece, tuple(p.outcomes or ()), p.failed) for p in plays]

    def _replies(
        self, plays: Sequence[_Play], turn: int
    ) -> Generator[tuple[int, list[list[Reply]]], None, None]:
        """(place, replies to all its prompts) as each play has them."""
        found: list[list[list[Reply | None]]] = [
            [[None] * w.samples for w in p.wanted] for p in plays
        ]
        left = [sum(w.samples for w in p.wanted) for p in plays]
        waiting = [
            _Open(i, j, n, wanted, self._voice(wanted, play.piece), f"{play.piece.id}/{turn}/{j}")
            for i, play in enumerate(plays)
            for j, wanted in enumerate(play.wanted)
            for n in range(wanted.samples)
        ]
        for place, play in enumerate(plays):
            if not play.wanted:
                yield place, []
        while waiting:
            again: list[_Open] = []
            with closing(self._asked(waiting)) as stream:
                for item, reply in stream:
                    if (
                        isinstance(reply, Lost)
                        and item.attempt + 1 < self.attempts * self.generation
                    ):
                        again.append(replace(item, attempt=item.attempt + 1))
                        continue
                    found[item.play][item.prompt][item.sample] = reply
                    left[item.play] -= 1
                    if not left[item.play]:
                        yield item.play, found[item.play]  # type: ignore[misc]
            waiting = again

    def _voice(self, wanted: Wanted, piece: Piece) -> Voice:
        name = piece.model if wanted.who == WRITER else self.roles.get(wanted.who, piece.model)
        return self.voices[name]

    def _asked(self, items: Sequence[_Open]) -> Generator[tuple[_Open, Reply], None, None]:
        """Each reply: from the log where it is there, else from its model."""
        missing: dict[str, list[tuple[_Open, str]]] = {}
        for item in items:
            key = self._key(item)
            row = self.log.get(key)
            if row is None:
                missing.setdefault(item.voice.name, []).append((item, key))
            else:
                yield item, _reply(row)
        streams = [partial(self._of_one, own) for own in missing.values()]
        yield from streams[0]() if len(streams) == 1 else _merged(streams)

    def _key(self, item: _Open) -> str:
        sampling = item.sampling()
        settings = {
            "max_tokens": sampling.max_tokens, "temperature": sampling.temperature,
            "top_p": sampling.top_p, "thinking": item.thinking(),
        }  # fmt: skip
        wanted = item.wanted
        return reply_key(
            item.voice.identity,
            list(wanted.messages),
            list(wanted.tools),
            settings,
            self._seed(item),
        )

    def _seed(self, item: _Open) -> int:
        name = item.name if not item.attempt else f"{item.name}/again-{item.attempt}"
        return sample_seed(self.seed, name, item.sample)

    def _of_one(self, items: list[tuple[_Open, str]]) -> Iterator[tuple[_Open, Reply]]:
        """Replies of one model to all these at once."""
        voice = items[0][0].voice
        responder = self.responder(voice)
        asks: list[Ask] = []
        asked: list[tuple[_Open, str]] = []
        for item, key in items:
            wanted = item.wanted
            said = Conversation(item.name, "", list(wanted.messages), list(wanted.tools) or None)
            prompt = responder.prepare(said, thinking=item.thinking())
            if problem := responder.fits([prompt], voice.sampling.max_tokens)[0]:
                yield item, Lost(problem)
                continue
            asks.append(Ask(prompt, item.sampling(), self._seed(item)))
            asked.append((item, key))
        with closing(responder.stream(asks)) as stream:  # type: ignore[type-var]
            for place, done in stream:
                item, key = asked[place]
                yield item, self._kept(responder, item, key, asks[place], done)

    def _kept(
        self, responder: Responder, item: _Open, key: str, ask: Ask, done: Completion
    ) -> Reply:
        self.fresh += 1
        name = item.voice.name
        if done.finish_reason == "error":
            self._errors[name] += 1
            if self._errors[name] >= DEAD_AFTER:
                raise UserError(
                    f"model {name!r} answers no more ({self._errors[name]} errors in a row; the last: "
                    f"{done.error}); what has come is kept: see to it, and run the same command again"
                )
            return Lost(f"{name}: {done.error or 'the generation failed'}")
        self._errors[name] = 0
        asked = item.thinking()
        normal, reply = responder.format.lenient(done.text, asked=asked)
        prompt = ask.prompt
        size = (
            len(prompt)
            if isinstance(prompt, list)
            else responder.num_tokens(str(prompt["messages"]))
        )
        row = {
            "key": key, "model": name, "who": item.wanted.who, "for": item.name, "sample": item.sample,
            "finish": done.finish_reason, "text": normal, "opened": reply.opened,
            "answer": reply.answer, "thinking": reply.thinking, "tool_calls": reply.tool_calls,
            "well_formed": reply.well_formed, "tokens": len(done.token_ids), "prompt_tokens": size,
        }  # fmt: skip
        self.log.add(row)
        if self.watch(self.fresh):
            raise StopRequested("stopped as asked; replies that had come are kept")
        return _reply(row)

    def responder(self, voice: Voice) -> Responder:
        """The voice's responder, made when it is first needed."""
        if voice.name not in self._responders:
            self._responders[voice.name] = voice.start()
        return self._responders[voice.name]

    def close(self) -> None:
        """Let go of the engines."""
        for responder in self._responders.values():
            responder.close()
        self._responders.clear()


def _reply(row: Mapping[str, Any]) -> Reply:
    if row["finish"] != "stop":
        return Lost(f"{row['model']}: the reply was cut after {row['tokens']:,} tokens")
    return Replied(
        row["answer"], row["thinking"], row["tool_calls"], row["text"], row["opened"],
        row["well_formed"],
    )  # fmt: skip


def refuse(piece: Piece, reason: str) -> Played:
    """Every row of a piece removed for one reason, before anything is asked."""
    return Played(piece, tuple(GateRefusal(reason) for _ in range(piece.rows)))


def _merged(
    streams: Sequence[Callable[[], Iterator[tuple[_Open, Reply]]]],
) -> Iterator[tuple[_Open, Reply]]:
    """Several models' replies as they come, each model in a thread of its own."""
    found: queue.Queue[Any] = queue.Queue()
    stop = threading.Event()

    def pump(stream: Callable[[], Iterator[tuple[_Open, Reply]]]) -> None:
        try:
            for item in stream():
                found.put(item)
                if stop.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that waits
            found.put(error)
        finally:
            found.put(None)

    threads = [threading.Thread(target=pump, args=(stream,), daemon=True) for stream in streams]
    for thread in threads:
        thread.start()
    open_ones = len(threads)
    try:
        while open_ones:
            item = found.get()
            if item is None:
                open_ones -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        stop.set()
        for thread in threads:
            thread.join()
