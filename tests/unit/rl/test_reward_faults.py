"""Rewards when checks break: killed workers, crashes, hangs. Never a 0, never a hang, all counted."""

import os
import signal
import sys
import threading
import time
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import PreTrainedTokenizerFast

from engine.protocol import Sampling
from engine.scripted import ScriptedEngine
from reward import dispatch
from reward.verdict import Verdict, decided, failed, timed_out
from reward.workers import shared_pool
from rl.advantage import advantages
from rl.config import GrpoConfig
from rl.loop import Grpo
from rl.sample import Rollout, Sampled, Sampler
from workbench.conversation import CheckSpec, Conversation

RELEASE = threading.Event()
DIED = "the checking process died"


def check_faulty(reply: Any, reference: Any, *, limit_s: float = 20.0) -> Verdict:
    """A reply says what happens to its check, in a real worker process; else it is right or wrong."""
    word = reply.answer.strip()
    fault = {
        "crash": ("os:abort", []),
        "hang": ("signal:pause", []),
        "slow": ("time:sleep", [0.6]),
        "endless": ("time:sleep", [3600]),
    }
    if word == "stuck":  # in this process: nothing can kill it
        RELEASE.wait()
    if word in fault:
        target, args = fault[word]
        result = shared_pool().call(target, args, timeout_s=limit_s)
        if result.status == "timeout":
            return timed_out(result.reason)
        if result.status == "error":
            return failed(result.reason)
    return decided(word == reference or word == "slow")


@pytest.fixture(autouse=True)
def faulty(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = types.ModuleType("faulty_checker")
    module.__dict__["check_faulty"] = check_faulty
    monkeypatch.setitem(sys.modules, "faulty_checker", module)
    monkeypatch.setitem(dispatch.CHECKERS, "faulty", "faulty_checker:check_faulty")
    RELEASE.clear()
    yield
    RELEASE.set()


def roll_out(
    tokenizer: Any, replies: Sequence[Sequence[str]], **fields: Any
) -> tuple[list[list[Rollout]], float]:
    """The rollouts of one question per list of replies, and how long they took."""
    options = fields.pop("options", {})
    questions = [
        Conversation(
            f"q{n}", "math", [{"role": "user", "content": f"question <{n}>"}],
            check=CheckSpec("faulty", "right", options),
        )
        for n in range(len(replies))
    ]  # fmt: skip

    def script(prompt: Sequence[int], sample: int) -> list[int]:
        number = int(tokenizer.decode(prompt).rpartition("question <")[2].partition(">")[0])
        return list(tokenizer.encode(replies[number][sample], add_special_tokens=False))

    engine = ScriptedEngine(script, tokenizer.decode)
    sampling = Sampling(max_tokens=50, n=len(replies[0]))
    started = time.monotonic()
    groups = Sampler(engine, tokenizer, sampling, False, "group", **fields).roll_out(
        questions, seed=1
    )
    return groups, time.monotonic() - started


def workers() -> list[int]:
    """The process ids of this process's checking workers."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"reward.worker_main" in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def kill_workers() -> int:
    for pid in (pids := workers()):
        os.kill(pid, signal.SIGKILL)
    return len(pids)


def test_a_worker_killed_in_the_middle_of_a_check_costs_no_reward(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    shared_pool().call("time:sleep", [0], timeout_s=60)  # a warm worker
    killed: list[int] = []
    killer = threading.Timer(0.3, lambda: killed.append(kill_workers()))
    killer.start()
    ((first, second, third),), _ = roll_out(tokenizer, [["slow", "right", "wrong"]])
    killer.join()
    assert killed[0] >= 1
    assert [(r.reward, r.status) for r in (first, second, third)] == [
        (1.0, "ok"), (1.0, "ok"), (0.0, "ok")
    ]  # fmt: skip


def test_workers_that_are_killed_again_and_again_leave_a_status(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    over = threading.Event()

    def killer() -> None:
        while not over.wait(0.2):
            kill_workers()

    thread = threading.Thread(target=killer)
    thread.start()
    try:
        (group,), _ = roll_out(tokenizer, [["endless", "endless", "right", "wrong"]])
    finally:
        over.set()
        thread.join()
    assert [r.reward for r in group] == [None, None, 1.0, 0.0]
    assert all(DIED in r.status for r in group[:2])
    assert [r.advantage is None for r in group] == [True, True, False, False]


def test_a_fifth_of_the_checks_crash_and_the_rest_train_as_if_they_had_not_been_there(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    replies = [["right", "wrong", "right", "right"] for _ in range(10)]
    for n, group in enumerate(replies):
        group.insert(n % 5, "crash")
    groups, _ = roll_out(tokenizer, replies)
    for n, group in enumerate(groups):
        assert (group[n % 5].reward, group[n % 5].advantage) == (None, None)
        assert DIED in group[n % 5].status
        rest = [r for place, r in enumerate(group) if place != n % 5]
        assert [r.reward for r in rest] == [1.0, 0.0, 1.0, 1.0]
        assert [r.advantage for r in rest] == advantages([1.0, 0.0, 1.0, 1.0], "group")
    metrics = grpo().measure(Sampled(groups, [], 10, 0.0, 1.0))
    assert metrics["failed_share"] == pytest.approx(0.2)
    assert metrics["reward"] == pytest.approx(0.75)
    more = [*groups[:-1], [groups[0][0], *groups[-1][1:]]]
    with pytest.raises(
        RuntimeError, match=r"22% of the step's samples failed \(the checking process died.* 20%"
    ):
        grpo().measure(Sampled(more, [], 10, 0.0, 1.0))


def grpo() -> Grpo:
    source = {"type": "world", "domain": "math"}
    config = GrpoConfig.read({"kind": "grpo", "prompts": source, "held_out": source}, where="")
    pool = [Conversation("q", "math", [{"role": "user", "content": "?"}])]
    return Grpo(nn.Linear(1, 1), Any, pool, config, 0)  # type: ignore[arg-type]


def test_a_check_that_hangs_is_ended_at_its_limit(tokenizer: PreTrainedTokenizerFast) -> None:
    shared_pool().call("time:sleep", [0], timeout_s=60)
    (group,), wall_s = roll_out(
        tokenizer, [["hang", "right", "wrong"]], options={"limit_s": 0.5}
    )  # of CPU time; of wall time, which a pause takes, up to four times as much
    assert [(r.reward, r.status) for r in group] == [
        (None, "stopped after 0.5 s"), (1.0, "ok"), (0.0, "ok")
    ]  # fmt: skip
    assert wall_s < 15.0  # its kind's own limit is 20 s


def test_a_checker_that_is_stuck_in_this_process_does_not_hold_the_trainer(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    (group,), wall_s = roll_out(tokenizer, [["stuck", "right", "wrong"]], check_limit_s=1.0)
    assert [(r.reward, r.status) for r in group] == [
        (None, "the batch's time was over before this check was decided"), (1.0, "ok"), (0.0, "ok")
    ]  # fmt: skip
    assert wall_s >= 1.0


def test_a_masked_reply_is_in_the_baseline_and_has_no_advantage(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    replies = [["right", "wrong " * 60, "crash"]]
    ((right, cut, crashed),), _ = roll_out(tokenizer, replies, mask_truncated=True)
    assert cut.completion.finish_reason == "length"
    assert (right.advantage, right.masked) == (advantages([1.0, 0.0], "group")[0], False)
    assert (cut.reward, cut.advantage, cut.masked) == (0.0, None, True)
    assert (crashed.reward, crashed.advantage, crashed.masked) == (None, None, False)
