"""The math checker: agreement with math-verify, statuses, and killing what hangs."""

import os
import random
import signal
import subprocess
import threading
from typing import Any

import pytest

from reward import check, check_many, math_fast
from reward.workers import WorkerPool
from workbench.errors import UserError

HANG = r"\boxed{\dfrac{5^{(5^{(5^{(5^5)})}-4)}-5}{16}}"

# (gold, reply, right?) by hand; math-verify must say the same.
CASES = [
    ("42", r"\boxed{42}", True),
    ("42", "so 40 + 2 = 42", True),
    ("42", "The answer is 42.", True),
    ("42", "The answer is 43.", False),
    ("42", r"\boxed{42.0}", True),
    ("1234567", r"\boxed{1,234,567}", True),
    ("0.5", r"\boxed{\frac{1}{2}}", True),
    (r"\frac{1}{3}", r"\boxed{0.333333}", True),
    (r"\frac{1}{3}", r"\boxed{0.33}", False),
    (r"\frac{1}{3}", r"\boxed{0.333334}", False),
    (r"\frac{1}{2}", "1/2", True),
    (r"-\frac{3}{4}", r"$-\frac34$", True),
    (r"2\sqrt{3}", r"\boxed{\sqrt{12}}", True),
    (r"\sqrt{2}", r"\boxed{\frac{2}{\sqrt{2}}}", True),
    (r"\{1,2,3\}", r"\boxed{\{3,2,1\}}", True),
    (r"\{1,2\}", r"\boxed{\{1,2,3\}}", False),
    ("[2,5)", r"\boxed{[2,5)}", True),
    ("[2,5)", r"\boxed{(2,5)}", False),
    (r"(-\infty,3]", r"$(-\infty, 3]$", True),
    (r"(1,2)", r"\boxed{(1,2)}", True),
    (r"(1,2)", r"\boxed{(2,1)}", False),
    (r"50\%", r"\boxed{50\%}", True),
    ("50", r"\boxed{50\%}", True),
    ("10", r"\boxed{10 \text{ cm}}", True),
    (r"90^\circ", r"\boxed{90}", True),
    ("x=5", r"\boxed{5}", True),
    (r"x^2+2x+1", r"\boxed{(x+1)^2}", True),
    (r"x^2+1", r"\boxed{(x+1)^2}", False),
    (r"\pi", r"\boxed{\pi}", True),
    (r"\text{east}", r"\boxed{\text{east}}", True),
    (r"\text{east}", r"\boxed{\text{west}}", False),
    (r"\begin{pmatrix}1\\2\end{pmatrix}", r"\boxed{\begin{pmatrix}1\\2\end{pmatrix}}", True),
    ("10^6", r"\boxed{1000000}", True),
    ("3+4i", r"\boxed{4i+3}", True),
    ("5", r"\boxed{3} and \boxed{5}", False),
]


@pytest.mark.parametrize(("gold", "reply", "right"), CASES)
def test_cases_by_hand(gold: str, reply: str, right: bool) -> None:
    verdict = check("math", f"<think>7 or 8</think>\n{reply}", gold)
    assert (verdict.value, verdict.status) == (float(right), "ok")


def test_statuses() -> None:
    assert check("math", "", "42").status == "wrong_format"
    assert check("math", "<think>42", "42").status == "wrong_format"
    assert check("math", "no number here", "42").status == "wrong_format"
    assert check("math", "it is 42", "42", require_boxed=True).status == "wrong_format"
    unreadable = check("math", r"$x^2$", r"\boxed{}")
    assert (unreadable.value, unreadable.status) == (None, "error")
    mistakes: list[Any] = [None, [], "", True]
    for bad in mistakes:
        with pytest.raises(UserError, match="reference of a math check"):
            check("math", "42", bad)


def test_hang_is_a_timeout_in_any_thread_and_the_pool_recovers() -> None:
    verdicts: list[Any] = []
    check("math", "$x$", "x")  # warm
    thread = threading.Thread(
        target=lambda: verdicts.append(check("math", HANG, "3", timeout_s=0.5))
    )
    thread.start()
    verdicts.append(check("math", HANG, "3", timeout_s=0.5))
    thread.join()
    assert [(v.value, v.status) for v in verdicts] == [(None, "timeout")] * 2
    assert check("math", r"$x+1$", "1+x").value == 1.0


def test_a_dead_worker_is_an_error_and_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[subprocess.Popen[bytes]] = []

    class Recorded(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            started.append(self)

    monkeypatch.setattr("reward.workers.subprocess.Popen", Recorded)
    pool = WorkerPool(1)
    assert pool.call("os:_exit", [3], timeout_s=5.0).status == "error"
    assert pool.call("os.path:basename", ["/a/b"], timeout_s=5.0).value == "b"
    assert pool.call("time:sleep", [30], timeout_s=0.2).status == "timeout"
    assert pool.call("no_such_module:f", [], timeout_s=5.0).status == "error"
    assert pool.call("os.path:basename", ["/a/c"], timeout_s=5.0).value == "c"
    pool.close()
    assert len(started) == 3
    assert all(process.returncode is not None for process in started)


def test_a_worker_that_died_between_two_calls_costs_none_of_them() -> None:
    pool = WorkerPool(1)
    pid = pool.call("os:getpid", [], timeout_s=5.0).value
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert pool.call("os.path:basename", ["/a/b"], timeout_s=5.0).value == "b"
    pool.close()


def test_a_place_goes_to_whoever_has_waited_longest() -> None:
    pool, got = WorkerPool(1), list[int]()
    pool.call("time:sleep", [0], timeout_s=60)

    def one(number: int) -> None:
        for _ in range(8):
            pool.call("time:sleep", [0.01], timeout_s=10)
            got.append(number)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.close()
    # Between two turns of one thread each of the others has one: never three in a row.
    assert sorted(got) == [0] * 8 + [1] * 8 + [2] * 8
    middle = got[3:-6]
    assert all(len(set(middle[i : i + 3])) == 3 for i in range(len(middle) - 2)), got


def test_check_many_keeps_order_under_load() -> None:
    items = [("math", f"${i}x+{i}$", f"{i if i % 3 else i + 1}(x+1)") for i in range(1, 31)]
    values = [v.value for v in check_many(items, workers=4)]
    assert values == [1.0 if i % 3 else 0.0 for i in range(1, 31)]


# --- the fast path decides as math-verify does ---

TEMPLATES = [
    "{n}",
    "{n}.",
    "The result is {n}.",
    "Answer: {n}",
    "The answer is {n}.",
    "the answer is: {n}",
    "12 + 30 = 42\n42 + 7 = {n}",
    "x = {n}",
    "values 3, {n}",
    "5 {n}",
    "2 + {n}",
    "(3) {n}",
    "**{n}**",
    "-{n}",
    "Answer 5. So {n}",
    "\\boxed{{{n}}}",
    "So $x = \\boxed{{{n}}}$.",
    "We get \\[ \\boxed{{{n}}} \\]",
    "Thus \\boxed{{{n}}}. Done in 3 steps.",
    "\\boxed{{{n}}} apples cost $5",
    "Since $a=3$ and $b=4$, $\\boxed{{{n}}}$ cm",
    "costs $5, so \\boxed{{{n}}}",
    "\\boxed{{{n}}} or 4",
    "f(\\boxed{{{n}}}) = \\frac{{1}}{{2}}",
    "$2 \\cdot \\boxed{{{n}}}$",
    "\\boxed{{{n}}}\\%",
    "\\boxed{{{n}}} percent",
    "\\boxed{{ {n} }}^2",
    "The final answer is 7. I hope it is correct. \\boxed{{{n}}}",
    "$\\boxed{{{n}}}$ %",
    "$\\boxed{{{n}}}$ percent",
]


def _number(rng: random.Random) -> str:
    sign, big = rng.choice(["", "-"]), rng.randint(1000, 10**7)
    kind = rng.choice(["", "d", "t"])
    return rng.choice(
        [
            str(rng.randint(-50, 50)),
            str(rng.randint(-(10**9), 10**9)),
            str(rng.randint(-300, 300) / rng.choice([10, 100, 1000])),
            f"{big:,}",
            f"{rng.randint(-9, 20)}/{rng.randint(1, 12)}",
            f"{sign}\\{kind}frac{{{rng.randint(0, 12)}}}{{{rng.randint(1, 9)}}}",
            f"{rng.randint(0, 20)}.{rng.choice(['0', '50', '333333', '25'])}",
        ]
    )


def _rewritten(number: str, rng: random.Random) -> str:
    """Often the same value in another form."""
    value = math_fast.read_gold(number)
    if value is None or rng.random() < 0.4:
        return _number(rng)
    forms = [number, f"{float(value):.6f}", f"{value.numerator}/{value.denominator}"]
    if value.denominator == 1:
        forms += [str(value), f"{value}.0", f"{int(value):,}"]
    return rng.choice(forms)


def test_fast_path_agrees_with_math_verify() -> None:
    from math_verify import parse, verify

    rng = random.Random(0)
    decided = 0
    for _ in range(700):
        gold = _number(rng)
        reply = rng.choice(TEMPLATES).format(n=_rewritten(gold, rng))
        gold_value, read = math_fast.read_gold(gold), math_fast.read_answer(reply)
        if gold_value is None or read is None:
            continue
        fast = math_fast.same(gold_value, read[0])
        if fast is None:
            continue
        decided += 1
        assert fast == verify(parse(f"\\boxed{{{gold}}}"), parse(reply)), (gold, reply)
    assert decided > 350
