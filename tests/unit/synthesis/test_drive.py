"""Asking: replies by digest, three endings, votes as the binomial predicts, kills that lose nothing."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from math import comb
from pathlib import Path
from random import Random
from typing import Any

import pytest

from engine.replies import ReplyLog
from evals.synthesis.config import FrSftTask, StemTask, VoteConfig
from evals.synthesis.drive import DEAD_AFTER, Driver, Played
from evals.synthesis.seeds import Seed
from evals.synthesis.tasks import maker
from evals.synthesis.work import AskAgain, GateRefusal, Made, Piece, Work, ask, whole
from tests.scripted_models import CUT, Script, voice
from workbench.errors import UserError

SEED = Seed("s1", "Tom has 3 apples and buys 4 more apples. How many apples has Tom now?")


def play(
    folder: Path, pieces: list[Piece], script: Script, **changes: Any
) -> tuple[list[Played], Any]:
    made, responder = voice(script)
    driver = Driver({"scripted": made}, {}, ReplyLog(folder / "replies.jsonl"), 17, **changes)
    try:
        return driver.play(pieces), responder
    finally:
        driver.log.close()


def echo(name: str, turns: int = 1) -> Piece:
    def work() -> Work:
        said = []
        for turn in range(turns):
            (replies,) = yield [ask(f"{name} {turn}")]
            said.append(whole(replies[0]).answer)
        return [Made({"id": name, "text": " ".join(said)})]

    return Piece(name, 1, "scripted", work())


def question_of(messages: list[dict[str, Any]]) -> str:
    return str(messages[-1]["content"])


def test_a_dead_server_and_a_cut_reply_fail_a_row_and_neither_keep_nor_remove_it(
    tmp_path: Path,
) -> None:
    def script(messages: list[dict[str, Any]], seed: int) -> str | None:
        word = question_of(messages).split()[0]
        return {"dead": None, "cut": f"half{CUT}", "whole": "fine"}[word]

    played, _ = play(tmp_path, [echo("dead"), echo("cut"), echo("whole")], script)
    assert [bool(p.failed) for p in played] == [True, True, False]
    assert "connection refused" in played[0].failed and "was cut" in played[1].failed
    assert played[0].outcomes == played[1].outcomes == ()
    assert played[2].outcomes == (Made({"id": "whole", "text": "fine"}),)


def test_a_cut_reply_is_sampled_anew_with_another_seed(tmp_path: Path) -> None:
    seeds: list[int] = []

    def script(messages: list[dict[str, Any]], seed: int) -> str:
        seeds.append(seed)
        return "whole" if len(seeds) == 2 else f"half{CUT}"

    played, _ = play(tmp_path, [echo("row")], script)
    assert played[0].outcomes and len(set(seeds)) == 2
    rows = [json.loads(line) for line in (tmp_path / "replies.jsonl").read_text().splitlines()]
    assert [row["finish"] for row in rows] == ["length", "stop"]


def test_replies_that_came_are_never_asked_for_again(tmp_path: Path) -> None:
    pieces = [echo(f"row-{n}", turns=3) for n in range(5)]
    first, one = play(tmp_path, pieces, lambda m, seed: f"{question_of(m)}/{seed}")
    lines = (tmp_path / "replies.jsonl").read_bytes().splitlines(keepends=True)
    assert len(one.asked) == len(lines) == 15
    # As a kill leaves it: seven whole lines, and half of the eighth.
    (tmp_path / "replies.jsonl").write_bytes(b"".join(lines[:7]) + lines[7][:20])
    again, two = play(
        tmp_path,
        [echo(f"row-{n}", turns=3) for n in range(5)],
        lambda m, seed: f"{question_of(m)}/{seed}",
    )
    assert len(two.asked) == 15 - 7
    assert [p.outcomes for p in again] == [p.outcomes for p in first]


def test_a_model_that_only_errs_stops_the_stage_in_one_line(tmp_path: Path) -> None:
    asked = []

    def script(messages: list[dict[str, Any]], seed: int) -> str | None:
        asked.append(seed)
        return "fine" if len(asked) <= 10 else None

    with pytest.raises(UserError, match="answers no more") as stopped:
        play(tmp_path, [echo(f"row-{n}") for n in range(500)], script)
    assert "\n" not in str(stopped.value)
    assert len(asked) == 10 + DEAD_AFTER
    assert len((tmp_path / "replies.jsonl").read_text().splitlines()) == 10


def test_a_task_that_breaks_is_a_failed_row(tmp_path: Path) -> None:
    def broken() -> Work:
        yield [ask("anything")]
        raise LookupError("a bug")

    played, _ = play(tmp_path, [Piece("b", 2, "scripted", broken())], lambda m, s: "fine")
    assert played[0].failed == "LookupError: a bug"


def predicted(p: float, wrong: int, samples: int, at_least: int) -> tuple[float, float]:
    """(share kept, precision of what is kept) where a reply is right with p, and else gives one of `wrong`
    answers, each as likely; at_least is more than half, so that there is one winner at most."""

    def tail(q: float) -> float:
        return sum(
            comb(samples, k) * q**k * (1 - q) ** (samples - k) for k in range(at_least, samples + 1)
        )

    right, other = tail(p), wrong * tail((1 - p) / wrong)
    return right + other, right / (right + other)


def writer_and_solver(p: float, wrong: int, fault: float = 0.0) -> Script:
    """Writes problems whose answer is their own number; answers right with probability p."""

    def script(messages: list[dict[str, Any]], seed: int) -> str | None:
        said, rng = question_of(messages), Random(seed)
        if "Here is a problem" in said:
            number = seed % 10**6
            return (
                f"Problem: In box number {number} lie as many coins as its number says. How many?"
            )
        if rng.random() < fault:
            return rng.choice([None, f"I think{CUT}"])
        number = int(said.split("box number ")[1].split()[0])
        answer = number if rng.random() < p else number + 1 + rng.randrange(wrong)
        return f"It is \\boxed{{{answer}}}."

    return script


def truth(row: Any) -> bool:
    number = row["problem"].split("box number ")[1].split()[0]
    return bool(row["check"]["reference"] == number)


@pytest.mark.parametrize(("p", "wrong"), [(0.6, 2), (0.6, 40), (0.35, 3)])
def test_the_precision_of_a_vote_is_the_binomials(tmp_path: Path, p: float, wrong: int) -> None:
    """400 questions, 8 answers, 5 must agree: kept share and precision inside 99.9% of the prediction."""
    task = StemTask(type="stem", prompts=("similar",), answers=VoteConfig(samples=8, at_least=5))
    make = maker(task, [])
    pieces = [make(Seed(f"s{n}", SEED.text), ["scripted"])[0] for n in range(400)]
    played, _ = play(tmp_path, pieces, writer_and_solver(p, wrong))
    kept = [o.row for one in played for o in one.outcomes if isinstance(o, Made)]
    share, precision = predicted(p, wrong, 8, 5)
    spread = 3.29 * math.sqrt(share * (1 - share) / 400)
    assert abs(len(kept) / 400 - share) <= spread
    right = sum(truth(row) for row in kept) / len(kept)
    assert (
        abs(right - precision) <= 3.29 * math.sqrt(precision * (1 - precision) / len(kept)) + 1e-9
    )
    removed = Counter(
        o.reason for one in played for o in one.outcomes if isinstance(o, GateRefusal)
    )
    assert set(removed) == {"vote: no majority"} and len(kept) + removed.total() == 400


def test_lost_answers_decide_nothing(tmp_path: Path) -> None:
    """A fifth of the answers is lost: rows fail that could have gone either way, and precision holds."""
    task = StemTask(type="stem", prompts=("similar",), answers=VoteConfig(samples=8, at_least=5))
    make = maker(task, [])
    pieces = [make(Seed(f"s{n}", SEED.text), ["scripted"])[0] for n in range(300)]
    played, _ = play(tmp_path, pieces, writer_and_solver(0.6, 2, fault=0.2), attempts=1)
    kept = [o.row for one in played for o in one.outcomes if isinstance(o, Made)]
    failed = [one for one in played if one.failed]
    assert failed and all("the vote hangs on them" in one.failed for one in failed)
    assert sum(truth(row) for row in kept) / len(kept) > 0.93
    assert len(failed) + sum(len(one.outcomes) for one in played) == 300


def test_rounds_write_after_the_problem_before_and_a_bad_one_ends_the_chain(tmp_path: Path) -> None:
    def script(messages: list[dict[str, Any]], seed: int) -> str:
        said = question_of(messages)
        if "Here is a problem" in said:
            if "box number 2" in said:
                return "Problem: a new one.\nAnswer: 4"
            return f"Problem: In box number {2 if 'box number' in said else 1} lie its coins. How many?"
        return "\\boxed{" + said.split("box number ")[1].split()[0] + "}"

    task = StemTask(
        type="stem", prompts=("harder",), rounds=4, answers=VoteConfig(samples=3, at_least=2)
    )
    (piece,) = maker(task, [])(SEED, ["scripted"])
    (played,), _ = play(tmp_path, [piece], script)
    ends = [
        o.row["check"]["reference"] if isinstance(o, Made) else o.reason for o in played.outcomes
    ]
    assert ends == ["1", "2", "no problem alone", "the round before it made no problem"]


def test_fundamental_reasoning_keeps_the_majoritys_letter(tmp_path: Path) -> None:
    def script(messages: list[dict[str, Any]], seed: int) -> str:
        if "Here is a problem" in question_of(messages):
            return "Problem: Ann is older than Ben, and Ben than Cy. Who is the youngest?\nA. Ann\nB. Ben\nC. Cy\nD. none"
        return f"Ann, Ben, Cy in this order.\nAnswer: {'C' if seed % 10 else 'A'}"

    (piece,) = maker(FrSftTask(type="fr_sft"), [])(SEED, ["scripted"])
    (played,), _ = play(tmp_path, [piece], script)
    (row,) = [o.row for o in played.outcomes if isinstance(o, Made)]
    assert row["check"] == {"kind": "choice", "reference": "C", "options": {"num_choices": 4}}
    assert row["messages"][-1]["content"].endswith("Answer: C") and row["votes"] >= 5


_KILLED = """
import sys, time
from pathlib import Path
from tests.unit.synthesis.test_drive import echo, play
def script(messages, seed):
    time.sleep(0.002)
    return f"{messages[-1]['content']}/{seed}"
played, responder = play(Path(sys.argv[1]), [echo(f"row-{n}", turns=3) for n in range(40)], script)
print(len(responder.asked), *[p.outcomes[0].row["text"] for p in played], sep="\\n")
"""


def test_kill_9_at_random_points_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """Three kills; at the end every reply stands once, and the rows equal the undisturbed run's."""

    def begin(folder: Path) -> "subprocess.Popen[str]":
        command = [sys.executable, "-c", _KILLED, str(folder)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path.cwd())

    calm, rng = tmp_path / "calm", Random(5)
    whole_run = begin(calm).communicate()[0].splitlines()
    killed, log, last = tmp_path / "killed", tmp_path / "killed" / "replies.jsonl", 0
    for _ in range(3):
        process = begin(killed)
        wanted = last + rng.randint(5, 25)
        while process.poll() is None and (
            not log.is_file() or log.read_bytes().count(b"\n") < wanted
        ):
            time.sleep(0.002)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        last = log.read_bytes().count(b"\n") if log.is_file() else 0
    rest = begin(killed).communicate()[0].splitlines()
    assert last > 15 and int(rest[0]) == 120 - last
    assert rest[1:] == whole_run[1:]
    keys = [json.loads(line)["key"] for line in log.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == 120


def test_failed_is_an_ending_of_its_own() -> None:
    assert not issubclass(AskAgain, UserError)
