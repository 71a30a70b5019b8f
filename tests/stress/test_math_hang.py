"""10,000 adversarial answers, in four batches: every one gets a verdict in bounded time.

And the fast path against math-verify, on many more replies than the unit test.
"""

import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from reward import CheckItem, Verdict, check, math_fast
from tests.unit.reward.test_math import TEMPLATES, _number, _rewritten

pytestmark = pytest.mark.stress
TIMEOUT_S = 1.0
BATCHES, BATCH_SIZE = 4, 2500
# True hangs cost their whole limit and a new worker; a few keep the suite short.
NUM_HANGS, NUM_LONG = 6, 10
NUM_AGREED = 5000


# A limit in CPU time is at most four times that in wall time; then a new worker loads math-verify.
LONGEST_S = 4 * TIMEOUT_S + 60.0
SUMS: Counter[str] = Counter()
LONGEST, WALL = list[float](), list[float]()


def _timed(item: CheckItem, spans: list[float]) -> Verdict:
    started = time.monotonic()
    verdict = check(item.kind, item.response_text, item.reference, **item.options)
    spans.append(time.monotonic() - started)
    return verdict


def _hang(rng: random.Random) -> str:
    a, b = rng.randint(3, 9), rng.randint(3, 9)
    return rng.choice(
        [
            rf"\boxed{{\dfrac{{{a}^{{({a}^{{({a}^{{({a}^{b})}}-4)}}-5)}}}}{{16}}}}",
            rf"${a}^{{{a}^{{{a}^{{{a}^{b}}}}}}}$",
            rf"\boxed{{({a}^{{{b}00000000}})!}}",
            rf"$\sum_{{n=1}}^{{10^{{{b + 9}}}}} \frac{{1}}{{n^{a}}}$",
            rf"$\prod_{{k=1}}^{{10^{{1{b}}}}} k$",
            rf"$(x+y+z)^{{{a}0000}} - (x+y+z)^{{{b}0000}}$",
        ]
    )


def _adversarial(rng: random.Random) -> str:
    n, m = rng.randint(1, 99), rng.randint(1, 60)
    return rng.choice(
        [
            "(" * m + "1" + ")" * rng.randint(0, 60),
            "\\boxed{" * m + "1" + "}" * rng.randint(0, 60),
            "$" + "\\frac{" * m + "1}{2}" * rng.randint(0, m) + "$",
            "$" + "{" * m + "$",
            f"\\boxed{{{n}^{{{m}}}}}",
            f"\\boxed{{{n}!}}",
            f"{n}" * m + "." + "0" * m,
            f"\\boxed{{{'1' * (m * 20)}}}",
            f"\\boxed{{\x00{n}\x00}}",
            "\x00" * m,
            f"\\boxed{{{n}，{m}}}",
            "".join(chr(rng.randint(1, 0x2FFF)) for _ in range(m)),
            "½¾⅓" * m + f"= {n}",
            f"\\boxed{{\\text{{{'é' * m}}}}}",
            f"\\boxed{{{n}\\%}} \\boxed{{{m}\\%}}",
            f"\\left({n}, \\infty\\right] \\cup \\{{{m}\\}}",
            "\\begin{pmatrix}" + f"{n} & {m}\\\\" * (m % 6) + "\\end{pmatrix}",
            f"$\\sqrt[{n}]{{\\sqrt[{m}]{{{n}}}}}$",
            f"answer: {n} = {m} = {n}" * (m % 9),
            "\\" * m,
            "$$" * m,
            f"the final answer is ${n}x + {m}$. I hope it is correct.",
            f"\\boxed{{\\int_0^{{{n}}} x^{m % 5} dx}}",
            f"\\boxed{{\\sin({n}) + \\cos^{{-1}}({m % 2})}}",
            "\ud800" + f"{n}",
        ]
    )


def _long(rng: random.Random) -> str:
    unit = rng.choice(["word 3 ", "$x$ ", "(", "1,", "= 2 ", "\\boxed{1} ", "-", "{", "answer "])
    return (unit * 100_000)[:100_000]


@pytest.mark.parametrize("batch", range(BATCHES))
def test_adversarial_answers_never_hang(batch: int, count: Callable[[str], None]) -> None:
    rng = random.Random(batch)
    texts = [_hang(rng) for _ in range(NUM_HANGS)] + [_long(rng) for _ in range(NUM_LONG)]
    texts += [_adversarial(rng) for _ in range(BATCH_SIZE - len(texts))]
    rng.shuffle(texts)
    golds = ["42", r"\frac{1}{2}", "[2,5)", "x^2+1"]
    options = {"timeout_s": TIMEOUT_S}
    items = [CheckItem("math", text, golds[i % 4], options) for i, text in enumerate(texts)]
    started, spans = time.monotonic(), list[float]()
    with ThreadPoolExecutor(2) as executor:
        verdicts = list(executor.map(lambda item: _timed(item, spans), items))
    statuses = Counter(v.status for v in verdicts)
    errors = Counter(v.parts["reason"] for v in verdicts if v.status == "error")
    hung = sum(span > LONGEST_S for span in spans)
    SUMS.update(statuses)
    SUMS["hung"] += hung
    LONGEST.append(max(spans))
    WALL.append(time.monotonic() - started)
    if batch == BATCHES - 1:
        checked = SUMS.total() - SUMS["hung"]
        count(
            f"math: {checked:,} adversarial strings, {SUMS['hung']} hung, {SUMS['timeout']} stopped at "
            f"their limit of {TIMEOUT_S:g} s of CPU time ({NUM_HANGS * len(WALL)} never end), "
            f"{SUMS['error']} undecided for another reason{f' {dict(errors)}' if errors else ''}, longest "
            f"{max(LONGEST):.1f} s, {sum(WALL):.0f} s in all"
        )
    assert len(verdicts) == len(spans) == BATCH_SIZE
    assert hung == 0
    assert all((v.value is None) == (v.status in ("timeout", "error")) for v in verdicts)
    # Only a memory limit or a crash of the parser may leave an answer undecided.
    assert statuses["error"] <= 5
    assert 1 <= statuses["timeout"] <= 2 * NUM_HANGS


def test_the_fast_path_agrees_with_math_verify(count: Callable[[str], None]) -> None:
    from math_verify import parse, verify

    rng = random.Random(1)
    agreed: list[bool] = []
    while len(agreed) < NUM_AGREED:
        gold = _number(rng)
        reply = rng.choice(TEMPLATES).format(n=_rewritten(gold, rng))
        gold_value, read = math_fast.read_gold(gold), math_fast.read_answer(reply)
        fast = math_fast.same(gold_value, read[0]) if gold_value is not None and read else None
        if fast is not None:
            agreed.append(fast == verify(parse(f"\\boxed{{{gold}}}"), parse(reply)))
    count(f"math: {sum(agreed):,} of {len(agreed):,} fast verdicts agree with math-verify")
    assert all(agreed)
