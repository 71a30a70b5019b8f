"""A vote among sampled answers to a question that has no reference, by the checker's own equality."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from environments.question import checked
from evals.synthesis.work import AskAgain, Lost, Replied, Reply
from reward.votes import ballots, voted
from workbench.conversation import CheckSpec
from workbench.records import Sample

# What stands in for the reference while answers are only read: equal ones are equal whatever it is.
_STAND_IN = {"math": "0", "choice": "A"}
VOTING = tuple(_STAND_IN)


@dataclass(frozen=True)
class Ballot:
    """The winner of a vote. replies: those that gave the answer. votes: answers read, in all."""

    answer: str
    replies: tuple[Replied, ...]
    votes: int


def vote(
    replies: Sequence[Reply], kind: str, options: Mapping[str, Any], *, at_least: int
) -> Ballot | str:
    """The answer of at least `at_least` replies that more gave than any other; else why there is none.

    A reply from which no answer is read votes for none. Raises: AskAgain where the outcome hangs on
    replies that were lost, or on checks that did not decide.
    """
    lost, rows, read = 0, list[Sample](), dict[int, Replied]()
    spec = CheckSpec(kind, _STAND_IN[kind], dict(options))
    for number, reply in enumerate(replies):
        if isinstance(reply, Lost):
            lost += 1
            continue
        verdict = checked(spec, reply.text, opened=reply.opened)
        if verdict.value is None:
            lost += 1
            continue
        read[number] = reply
        rows.append(
            Sample("", number, value=verdict.value, status=verdict.status, why=verdict.parts)
        )
    groups = sorted(ballots(rows), key=len, reverse=True)
    sizes = [len(group) for group in groups] + [0, 0]
    top, second = sizes[0], sizes[1]
    if top >= at_least and top > second + lost:
        answer = voted(groups[0][0])
        assert answer is not None
        return Ballot(answer, tuple(read[row.sample] for row in groups[0]), sum(sizes))
    if lost and top + lost >= at_least and top + lost > second:
        raise AskAgain(f"{lost} of {len(replies)} answers were lost, and the vote hangs on them")
    if not top:
        return "no answer could be read"
    return "no majority"
