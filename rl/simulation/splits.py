"""How a GRPO stage would run on other numbers of cards: splits between trainers and engines. No torch."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from model.cost import training_memory
from rl.simulation.assumed import Loads, timing
from rl.simulation.events import SimulationOutcome, simulate
from rl.simulation.parts import NO_FAULTS, Asked, Faults, Layout, Lengths, Plan
from rl.simulation.rows import packed

CARDS = (8, 16, 32, 64, 128, 256, 512, 1024)
_EIGHTHS = range(1, 8)
_WORTH = 1.25
"""Scaling has ended where twice the cards are not so many times as fast."""


@dataclass(frozen=True)
class Split:
    """A simulated run on so many cards, of which some train."""

    cards: int
    trainers: int
    engines: int
    outcome: SimulationOutcome

    @property
    def idle(self) -> float:
        """Mean share of the time in which a card does nothing."""
        asked = self.cards - self.trainers
        whole = self.trainers * self.outcome.trainers_idle + asked * self.outcome.engine_idle
        return whole / self.cards


@dataclass(frozen=True)
class SplitQuestion:
    """What is simulated on every split."""

    loads: Loads
    plan: Plan
    lengths: Lengths
    mean_reply: float
    faults: Faults = NO_FAULTS

    def on(self, trainers: int, engines: int) -> Split:
        """Simulate one."""
        training = replace(self.loads.training, workers=trainers, replicate=_copies(self, trainers))
        loads = self.loads._replace(training=training)
        each = max(loads.generation.gpus or 0.0, 1.0)
        layout = Layout(
            engines=engines,
            groups=trainers // training.context,
            seats=loads.generation.sequences,
            engine_cards=each,
            group_cards=training.context,
        )
        outcome = simulate(
            self.plan, layout, timing(loads, self.lengths, self.mean_reply), self.lengths,
            faults=self.faults,
        )  # fmt: skip
        return Split(round(layout.cards), trainers, engines, outcome)


def _copies(question: SplitQuestion, trainers: int) -> int:
    """The recipe's own copies of the state, where they still divide the trainers."""
    copies = question.loads.training.replicate
    return copies if trainers % copies == 0 else 1


def splits(question: SplitQuestion, cards: int) -> Iterator[Split]:
    """All whose trainers fit: eighths of the cards train, the others answer. An engine is the same in all."""
    load, hardware = question.loads.training, question.loads.hardware
    each = max(question.loads.generation.gpus or 0.0, 1.0)
    tried = set[int]()
    for eighths in _EIGHTHS:
        trainers = max(cards * eighths // 8 // load.context * load.context, load.context)
        engines = int((cards - trainers) // each)
        if engines < 1 or trainers in tried:
            continue
        tried.add(trainers)
        laid = replace(load, workers=trainers, replicate=_copies(question, trainers))
        if trainers > 1 and laid.strategy == "none":
            laid = replace(laid, strategy="fsdp")
        memory = training_memory(
            question.loads.shape, laid, question.loads.frozen, card=hardware.card
        )
        if memory.device_bytes <= hardware.memory:
            yield question.on(trainers, engines)


def best(question: SplitQuestion, cards: Sequence[int] = CARDS) -> list[Split]:
    """The fastest split of each number of cards on which there is one."""
    found = [list(splits(question, number)) for number in cards]
    return [min(tried, key=lambda split: split.outcome.step_s) for tried in found if tried]


def end_of_scaling(found: Sequence[Split]) -> int | None:
    """The number of cards from which on twice as many are not worth it; None: they always are."""
    for split, double in itertools.pairwise(found):
        if split.outcome.step_s / double.outcome.step_s < _WORTH:
            return split.cards
    return None


def rows_of_a_step(question: SplitQuestion) -> int:
    """Into which the replies of the first step are packed: more trainers than these stand idle."""
    return len(packed(_first_step(question), question.plan.row_tokens))


def longest_s(question: SplitQuestion) -> float:
    """Of the first step's longest reply, alone on an engine: no number of cards makes a step shorter."""
    decoding = timing(question.loads, question.lengths, question.mean_reply).decoding
    return max(asked.reply for asked in _first_step(question)) * decoding.iteration_s(1)


def _first_step(question: SplitQuestion) -> list[Asked]:
    plan = question.plan
    return [question.lengths.of(p, g) for p in range(plan.prompts) for g in range(plan.group)]
