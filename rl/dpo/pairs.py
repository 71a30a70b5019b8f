"""From episodes to preference pairs: a success and a failure of the same task."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from environments.rollout import Trajectory


@dataclass(frozen=True)
class Side:
    """One episode as a row. input_ids [T]; mask [T], 1 on the tokens that the policy chose; seq_idx
    [T], the reply that a token belongs to.

    Each reply stands in a document of its own behind the exact prompt that it was sampled from, so
    tool results, the user's words and older replies are prompt: they carry no loss. The documents
    are isolated, and the sum over the row is the log-probability of the whole episode.
    """

    input_ids: list[int]
    mask: list[int]
    seq_idx: list[int]


@dataclass(frozen=True)
class EpisodePair:
    """A better and a worse episode of one task."""

    task: str
    chosen: Side
    rejected: Side

    def to_row(self) -> dict[str, Any]:
        """Columns of the training set."""
        row: dict[str, Any] = {"task": self.task}
        for name, side in (("chosen", self.chosen), ("rejected", self.rejected)):
            row |= {
                f"{name}_ids": side.input_ids,
                f"{name}_mask": side.mask,
                f"{name}_seq": side.seq_idx,
            }
        return row

    @classmethod
    def of_row(cls, row: dict[str, Any]) -> "EpisodePair":
        """From `to_row`."""
        sides = [
            Side(*(row[f"{name}_{part}"] for part in ("ids", "mask", "seq")))
            for name in ("chosen", "rejected")
        ]
        return cls(row["task"], *sides)


def to_side(trajectory: Trajectory) -> Side:
    """An episode's replies in a row, each behind its prompt. Forced tokens carry no loss either."""
    ids, mask, seq = list[int](), list[int](), list[int]()
    for number, turn in enumerate(trajectory.turns):
        reply, forced = turn.completion.token_ids, turn.completion.forced
        ids += [*turn.prompt, *reply]
        mask += [0] * len(turn.prompt)
        mask += [0 if forced and forced[i] else 1 for i in range(len(reply))]
        seq += [number] * (len(turn.prompt) + len(reply))
    return Side(ids, mask, seq)


@dataclass
class PairAccounting:
    """What a round of sampling came to."""

    tasks: int = 0
    episodes: int = 0
    broken: int = 0
    successes: int = 0
    mixed_tasks: int = 0
    dropped_longer: int = 0
    pairs: int = 0

    def as_dict(self) -> dict[str, Any]:
        """JSON-able, for the manifest."""
        decided = max(self.episodes - self.broken, 1)
        return {**self.__dict__, "success": self.successes / decided}


def make_pairs(
    groups: Sequence[Sequence[Trajectory]], *, per_task: int, row_tokens: int, seed: int
) -> tuple[list[EpisodePair], PairAccounting]:
    """Up to `per_task` random pairs of each task that has both a success and a failure.

    Episodes that broke are not failures: they are in no pair. No two episodes are paired twice, but
    episodes that went word for word alike count as often as they were played.
    """
    account = PairAccounting(tasks=len(groups))
    pairs = []
    for group in groups:
        account.episodes += len(group)
        good = [t for t in group if t.success is True]
        bad = [t for t in group if t.success is False]
        account.broken += len(group) - len(good) - len(bad)
        account.successes += len(good)
        account.mixed_tasks += bool(good and bad)
        sides = {id(t): to_side(t) for t in (*good, *bad)}
        fits = {key for key, side in sides.items() if len(side.input_ids) <= row_tokens}
        account.dropped_longer += len(sides) - len(fits)
        couples = [(g, b) for g in good for b in bad if id(g) in fits and id(b) in fits]
        rng = random.Random(f"{seed}/{group[0].task.id}")
        for g, b in rng.sample(couples, min(per_task, len(couples))):
            pairs.append(EpisodePair(g.task.id, sides[id(g)], sides[id(b)]))
    account.pairs = len(pairs)
    return pairs, account
