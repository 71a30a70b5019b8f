"""What a simulated run is made of: how long its parts take, who is where, what is asked. No torch."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Asked(NamedTuple):
    """Tokens of one reply and of the prompt before it."""

    prompt: int
    reply: int


@dataclass(frozen=True)
class Decoding:
    """One engine. An iteration gives every sequence a token and takes step_s + sequence_s each, or compute_s
    each where that is more. prompt_s: a token of a prompt. score_s: what a whole step's replies take
    afterwards (checks, advantages).

    Example: Decoding(step_s=0.015, sequence_s=9e-5, compute_s=7e-5, prompt_s=7e-5)
    """

    step_s: float
    sequence_s: float = 0.0
    compute_s: float = 0.0
    prompt_s: float = 0.0
    score_s: float = 0.0

    def iteration_s(self, sequences: int) -> float:
        """Seconds of one iteration."""
        return max(self.step_s + self.sequence_s * sequences, self.compute_s * sequences)


@dataclass(frozen=True)
class TrainerGroup:
    """One group of trainers that share a row. token_s: a token. gather_s: the weights of a row's passes,
    which come while it is computed. fixed_s: the optimizer, and whatever a step has once.

    Example: TrainerGroup(token_s=2.2e-4, gather_s=0.9, fixed_s=0.1)
    """

    token_s: float
    gather_s: float = 0.0
    fixed_s: float = 0.0


@dataclass(frozen=True)
class Timing:
    """Seconds of all parts. sync_s: the weights into the engines. other_s: the rest of a step. save_s: how
    long a checkpoint stops the trainers. poll_s: how often a busy engine can be told something."""

    decoding: Decoding
    training: TrainerGroup
    sync_s: float = 0.0
    other_s: float = 0.0
    save_s: float = 0.0
    poll_s: float = 0.0


@dataclass(frozen=True)
class Layout:
    """Who is where. groups: of trainers that share rows. seats: sequences of an engine at once.
    engine_cards, group_cards: cards of each.

    Example: Layout(engines=8, groups=8, seats=64)
    """

    engines: int
    groups: int
    seats: int = 256
    engine_cards: float = 1.0
    group_cards: float = 1.0

    @property
    def cards(self) -> float:
        """All of them."""
        return self.engines * self.engine_cards + self.groups * self.group_cards


@dataclass(frozen=True)
class Plan:
    """What is asked: the recipe's own words, and the rows that replies are packed into.

    Example: Plan(steps=500, prompts=32, group=16, staleness=1, row_tokens=16384, save_every=5)
    """

    steps: int
    prompts: int
    group: int
    staleness: int = 0
    row_tokens: int = 8192
    save_every: int = 0
    """0: never."""


@dataclass(frozen=True)
class Faults:
    """Cards are lost at a rate. engine_s, trainers_s: until an engine, or all trainers, are there again."""

    per_card_hour: float = 0.0
    engine_s: float = 120.0
    trainers_s: float = 300.0


NO_FAULTS = Faults()


class Lengths:
    """Lengths of prompts and replies, the same for the same seed and place, whatever the layout."""

    def __init__(
        self, seen: Sequence[Asked] = (), *, mean: float = 0.0, spread: float = 0.0,
        prompt: int = 0, most: int = 10**9, seed: int = 0,
    ) -> None:  # fmt: skip
        """Drawn from those that were seen; without them log-normal with this mean before the cut at `most`
        tokens. spread: the standard deviation of the logarithm; 0: all have the mean."""
        self.seen, self.most, self.prompt = tuple(seen), most, prompt
        self.mean, self.spread, self.seed = mean, spread, seed

    def of(self, prompt: int, sample: int) -> Asked:
        """Of a prompt's reply, by their numbers."""
        draw = random.Random(f"{self.seed}/{prompt}/{sample}")
        if self.seen:
            asked = draw.choice(self.seen)
            return Asked(asked.prompt, min(asked.reply, self.most))
        # The mean of exp(normal(0, s)) is exp(s^2 / 2).
        factor = draw.lognormvariate(-(self.spread**2) / 2, self.spread) if self.spread else 1.0
        return Asked(self.prompt, max(1, min(round(self.mean * factor), self.most)))
