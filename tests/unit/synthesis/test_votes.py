"""Votes at their edges, and the file of replies after a death in the middle of a line."""

from pathlib import Path

import pytest

from engine.replies import ReplyLog
from evals.synthesis.votes import Ballot, vote
from evals.synthesis.work import AskAgain, Lost, Replied, Reply


def answers(**counts: int) -> list[Reply]:
    found: list[Reply] = []
    for name, count in counts.items():
        for _ in range(count):
            said = f"Answer: {name}"
            found.append(Lost("cut") if name == "lost" else Replied(said, text=said))
    return found


def test_a_majority_that_lost_replies_could_have_turned_decides_nothing() -> None:
    """[derived] 5 for A and 3 for B: with one lost A wins whatever it said, with two B could draw level."""
    won = vote(answers(A=5, B=3, lost=1), "choice", {}, at_least=5)
    assert isinstance(won, Ballot) and (won.answer, len(won.replies), won.votes) == ("A", 5, 8)
    with pytest.raises(AskAgain, match="2 of 10 answers were lost, and the vote hangs on them"):
        vote(answers(A=5, B=3, lost=2), "choice", {}, at_least=5)
    assert vote(answers(A=3, B=3, lost=1), "choice", {}, at_least=5) == "no majority"


def test_a_reply_after_half_a_line_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "replies.jsonl"
    path.write_bytes(b'{"key": "a", "text": "1"}\n{"key": "b", "te')
    log = ReplyLog(path)
    assert set(log.rows) == {"a"}
    log.add({"key": "c", "text": "3"})
    log.close()
    assert set(ReplyLog(path).rows) == {"a", "c"}
