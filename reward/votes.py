"""Which of a question's sampled answers are equal, for a vote: by the checker's own equality.

Right answers are equal to the reference, so to each other, and to no wrong one. Wrong mathematical
answers are compared as the math checker compares: as numbers, else by math-verify in a worker process
that is killed at its limit. Other answers (a letter) are equal where they are spelled alike.
"""

from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache

from reward import math_fast
from reward.math_text import plain_math
from reward.workers import shared_pool
from workbench.records import Sample

# One comparison takes milliseconds; of 64 samples that all differ there would be 2,016.
_MOST_COMPARISONS = 200
_LIMIT_S = 1.0


def voted(sample: Sample) -> str | None:
    """The answer that a checker read from a reply; None where it read none, or could not use it."""
    found = sample.why.get("extracted")
    return None if found is None or sample.status not in ("", "ok") else str(found)


def majority(rows: Sequence[Sample]) -> Sample | None:
    """A row of the commonest answer; of equally common ones that of the lowest sample. None: no vote.

    rows: one question's samples.
    """
    groups = ballots(rows)
    return max(groups, key=len)[0] if groups else None  # the first of the longest


def ballots(rows: Sequence[Sample]) -> list[list[Sample]]:
    """One question's rows that vote, by equal answers, in the order in which each answer first comes."""
    return _groups(sorted((r for r in rows if voted(r) is not None), key=lambda row: row.sample))


def _groups(voting: Sequence[Sample]) -> list[list[Sample]]:
    """The rows by equal answers, in the order in which each answer first comes."""
    groups: list[list[Sample]] = []
    spent, stuck = 0, set[str]()
    for row in voting:
        for group in groups:
            verdict = _at_once(group[0], row)
            if verdict is None and spent < _MOST_COMPARISONS:
                one, other = _spelled(group[0]), _spelled(row)
                if one in stuck or other in stuck:
                    continue
                spent += 1
                verdict = _by_math(one, other)
                if verdict is None:  # one of the two hangs or breaks the comparison
                    stuck |= {text for text in (one, other) if not _by_math(text, text)}
            if verdict:
                group.append(row)
                break
        else:
            groups.append([row])
    return groups


def _at_once(one: Sample, other: Sample) -> bool | None:
    """Whether two answers are equal, where no computer algebra is needed to say so."""
    right = (one.value == 1.0, other.value == 1.0)
    if any(right):
        return all(right)
    if _spelled(one) == _spelled(other):
        return True
    if "path" not in one.why or "path" not in other.why:  # only the math checker says its path
        return False
    a, b = _number(_spelled(one)), _number(_spelled(other))
    return None if a is None or b is None else math_fast.same(a, b)


def _spelled(row: Sample) -> str:
    return "".join((voted(row) or "").split())


@lru_cache(maxsize=4096)
def _number(text: str) -> Fraction | None:
    return math_fast.read_gold(plain_math(text, formula=True))


@lru_cache(maxsize=4096)
def _by_math(one: str, other: str) -> bool | None:
    """math-verify's word with our guards; None where it was stopped or broke."""
    boxed = [f"\\boxed{{{plain_math(text, formula=True)}}}" for text in (one, other)]
    result = shared_pool().call("reward.math_worker:judge", boxed, timeout_s=_LIMIT_S)
    return bool(result.value["correct"]) if result.status == "ok" else None
