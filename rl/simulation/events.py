"""A GRPO run as discrete events, in the order of rl.loop and rl.prefetch. No torch."""

import heapq
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from rl.simulation.engine import SimulatedEngine
from rl.simulation.parts import NO_FAULTS, Asked, Faults, Layout, Lengths, Plan, Timing
from rl.simulation.rows import update_s

_MOST_EVENTS = 50_000_000


@dataclass(frozen=True)
class StepTook:
    """One update of the policy. began: when its rollouts were asked for by the trainer.

    Example: StepTook(step=0, began=0.0, ended=9.1, wait_s=6.0, update_s=3.0, staleness=0.0, prompts=(0, 1))
    """

    step: int
    began: float
    ended: float
    wait_s: float
    update_s: float
    staleness: float
    prompts: tuple[int, ...]


@dataclass(frozen=True)
class SimulationOutcome:
    """What the run came to. Shares of idle time are of the whole run, failures and checkpoints in it."""

    total_s: float
    steps: tuple[StepTook, ...]
    engines_idle: tuple[float, ...]
    trainers_idle: float
    lost: int
    sampled_tokens: float

    @property
    def step_s(self) -> float:
        """Seconds of the run for each update that stands at its end."""
        return self.total_s / len(self.steps)

    @property
    def staleness(self) -> float:
        """Mean age of the trained tokens in updates."""
        return sum(step.staleness for step in self.steps) / len(self.steps)

    @property
    def engine_idle(self) -> float:
        """Mean over the engines."""
        return sum(self.engines_idle) / len(self.engines_idle)


@dataclass
class _Sampling:
    """The rollouts of one step, under way or ready. by_version: tokens by the policy that sampled them."""

    step: int
    began: float
    asked: list[Asked]
    left: set[int]
    counted: float
    by_version: dict[int, float] = field(default_factory=dict)


def simulate(
    plan: Plan, layout: Layout, timing: Timing, lengths: Lengths,
    *, faults: Faults = NO_FAULTS, seed: int = 0,
) -> SimulationOutcome:  # fmt: skip
    """The whole run. The same arguments give the same outcome."""
    return _Run(plan, layout, timing, lengths, faults, seed).outcome()


class _Run:
    def __init__(
        self, plan: Plan, layout: Layout, timing: Timing, lengths: Lengths, faults: Faults, seed: int
    ) -> None:  # fmt: skip
        self.plan, self.layout, self.timing = plan, layout, timing
        self.lengths, self.faults, self.chance = lengths, faults, random.Random(seed)
        self.engines = [
            SimulatedEngine(timing.decoding, layout.seats) for _ in range(layout.engines)
        ]
        self.now, self.era, self._order = 0.0, 0, 0
        self._events: list[tuple[float, int, int | None, Callable[[], None]]] = []
        # Of the sampler: the step it is at, what waits for the trainer, the step after those.
        self.sampling: _Sampling | None = None
        self.ready: dict[int, _Sampling] = {}
        self.next = 0
        # Of the trainer: the published updates, since when it waits for rollouts.
        self.version = self.saved = self.lost = 0
        self.waiting_since: float | None = None
        self.busy_s, self.took = 0.0, list[StepTook]()

    def outcome(self) -> SimulationOutcome:
        """Run to the end."""
        self._expect_fault()
        self._take()
        for _ in range(_MOST_EVENTS):
            if len(self.took) == self.plan.steps:
                break
            self.now, _, era, act = heapq.heappop(self._events)
            if era is None or era == self.era:
                act()
        else:
            raise RuntimeError(
                "the simulated run does not end: cards are lost faster than it goes on"
            )
        for engine in self.engines:
            engine.advance(self.now)
        total = max(self.now, 1e-12)
        return SimulationOutcome(
            total_s=self.now,
            steps=tuple(self.took),
            engines_idle=tuple(1 - engine.busy_s / total for engine in self.engines),
            trainers_idle=1 - self.busy_s / total,
            lost=self.lost,
            sampled_tokens=sum(engine.tokens for engine in self.engines),
        )

    def _at(self, time: float, act: Callable[[], None], *, always: bool = False) -> None:
        """Do something then, unless the trainers start again before."""
        self._order += 1
        heapq.heappush(self._events, (time, self._order, None if always else self.era, act))

    # The sampler: one step at a time, at most `staleness` updates ahead of what is published.

    def _may_sample(self) -> None:
        if self.sampling is not None or self.next >= self.plan.steps:
            return
        in_turn = self.plan.staleness == 0
        asked_for = self.waiting_since is not None and self.next == len(self.took)
        if self.next <= self.version + self.plan.staleness and (asked_for or not in_turn):
            self._sample(self.next)

    def _sample(self, step: int) -> None:
        first = step * self.plan.prompts
        asked = [
            self.lengths.of(prompt, sample)
            for prompt in range(first, first + self.plan.prompts)
            for sample in range(self.plan.group)
        ]
        self.sampling = _Sampling(step, self.now, asked, set(range(len(asked))), self._tokens())
        width = len(self.engines)
        for number, engine in enumerate(self.engines):
            engine.submit(self.now, list(enumerate(asked))[number::width])
            self._expect(engine)

    def _expect(self, engine: SimulatedEngine) -> None:
        """Look at the engine when its next reply ends; an event that came too early looks again."""
        if (when := engine.next_end()) is not None:
            self._at(when, lambda: self._look(engine))

    def _look(self, engine: SimulatedEngine) -> None:
        ended = engine.ended(self.now)
        when = engine.next_end()
        if ended or (when is not None and when > self.now):
            self._expect(engine)
        if self.sampling is None or not ended:
            return
        self.sampling.left.difference_update(ended)
        if not self.sampling.left:
            self._count()
            self._at(self.now + self.timing.decoding.score_s, self._sampled)

    def _sampled(self) -> None:
        assert self.sampling is not None
        self.ready[self.sampling.step], self.sampling = self.sampling, None
        self.next += 1
        self._may_sample()
        if self.waiting_since is not None and len(self.took) in self.ready:
            self._update()

    def _tokens(self) -> float:
        for engine in self.engines:
            engine.advance(self.now)
        return sum(engine.tokens for engine in self.engines)

    def _count(self) -> None:
        """What was sampled since the last look was sampled by the version that is published."""
        if self.sampling is not None:
            tokens, by = self._tokens(), self.sampling.by_version
            by[self.version] = by.get(self.version, 0.0) + tokens - self.sampling.counted
            self.sampling.counted = tokens

    # The trainer: take, update, publish, save.

    def _take(self) -> None:
        self.waiting_since = self.now
        if len(self.took) in self.ready:
            self._update()
        else:
            self._may_sample()

    def _update(self) -> None:
        began, self.waiting_since = self.waiting_since, None
        assert began is not None
        sampled, wait = self.ready.pop(len(self.took)), self.now - began
        takes = update_s(
            sampled.asked, self.timing.training, self.layout.groups, self.plan.row_tokens
        )
        self.busy_s += takes
        self._at(
            self.now + takes + self.timing.other_s,
            lambda: self._sync(sampled, began, wait, takes),
        )

    def _sync(self, sampled: _Sampling, began: float, wait: float, takes: float) -> None:
        """The weights to the engines. A busy one is told between two polls."""
        if self.sampling is not None and self.timing.poll_s:
            since = (self.now - self.sampling.began) % self.timing.poll_s
            self._at(
                self.now + self.timing.poll_s - since,
                lambda: self._load(sampled, began, wait, takes),
            )
        else:
            self._load(sampled, began, wait, takes)

    def _load(self, sampled: _Sampling, began: float, wait: float, takes: float) -> None:
        self._count()
        for engine in self.engines:
            engine.pause(self.now, self.timing.sync_s)
        self._at(
            self.now + self.timing.sync_s, lambda: self._published(sampled, began, wait, takes)
        )

    def _published(self, sampled: _Sampling, began: float, wait: float, takes: float) -> None:
        step, first = len(self.took), len(self.took) * self.plan.prompts
        tokens = sum(sampled.by_version.values())
        ages = sum((step - v) * n for v, n in sampled.by_version.items())
        self.took.append(
            StepTook(
                step, began, self.now, wait, takes, ages / tokens if tokens else 0.0,
                tuple(range(first, first + self.plan.prompts)),
            )
        )  # fmt: skip
        self.version += 1
        self._may_sample()
        if self.plan.save_every and self.version % self.plan.save_every == 0:
            self._at(self.now + self.timing.save_s, self._saved)
        else:
            self._take()

    def _saved(self) -> None:
        self.saved = self.version
        self._take()

    # Cards that are lost.

    def _expect_fault(self) -> None:
        rate = self.faults.per_card_hour * self.layout.cards / 3600
        if rate > 0:
            self._at(self.now + self.chance.expovariate(rate), self._fault, always=True)

    def _fault(self) -> None:
        self.lost += 1
        card = self.chance.random() * self.layout.cards
        place = int(card // self.layout.engine_cards) if self.layout.engine_cards else 0
        if place < len(self.engines):
            self._lose_engine(self.engines[place])
        else:
            self._restart()
        self._expect_fault()

    def _lose_engine(self, engine: SimulatedEngine) -> None:
        engine.lose(self.now, self.faults.engine_s)
        self._expect(engine)

    def _restart(self) -> None:
        """All trainers begin again at the newest checkpoint; its rollouts are asked again."""
        self.era += 1
        for engine in self.engines:
            engine.drop(self.now)
        self.sampling, self.waiting_since, self.ready = None, None, {}
        del self.took[self.saved :]
        self.version = self.next = self.saved
        self._at(self.now + self.faults.trainers_s + self.timing.sync_s, self._take)
