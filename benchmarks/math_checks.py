"""Math checks a second on one core: integer answers (no computer algebra), and answers that need it.

    python benchmarks/math_checks.py

Each figure is the median of several rounds in this process, warm. The second kind goes through
math-verify in a worker process, so its CPU time is not in the second figure of that line.
"""

import os
import random
import resource
import statistics
import time
from collections.abc import Callable, Sequence

from reward import check

ROUNDS = 7


def integers(count: int) -> list[tuple[str, str]]:
    """(reply, reference): half of them right, in the forms that models write."""
    rng = random.Random(0)
    forms = ("<think>{t}</think>\\boxed{{{n}}}", "<think>{t}</think>The answer is {n}.", "{n}")
    made = []
    for place in range(count):
        n = rng.randint(-(10**6), 10**6)
        trace = " + ".join(str(rng.randint(1, 99)) for _ in range(40))
        gold = n if place % 2 else n + 1
        made.append((forms[place % 3].format(t=trace, n=n), str(gold)))
    return made


def algebra(count: int) -> list[tuple[str, str]]:
    """(reply, reference) that only math-verify can compare; all different."""
    return [(f"$x^2 + {2 * n}x + {n * n}$", f"(x+{n})^2") for n in range(1, count + 1)]


def rate(name: str, make: Callable[[int], Sequence[tuple[str, str]]], count: int) -> None:
    """Print the checks a second of CPU and of wall time."""
    walls, cpus = [], []
    for number in range(ROUNDS + 1):
        items = make(count)
        before, started = _cpu_s(), time.perf_counter()
        decided = [check("math", reply, gold).value for reply, gold in items]
        wall, cpu = time.perf_counter() - started, _cpu_s() - before
        if None in decided:
            raise RuntimeError(f"{decided.count(None)} of {count} checks were not decided")
        if number:  # the first round warms
            walls.append(wall)
            cpus.append(cpu)
    print(
        f"math, {name}: {count / statistics.median(walls):,.0f} checks/s of wall time, "
        f"{count / statistics.median(cpus):,.0f} a CPU-second of this process"
    )


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    rate("integer answers", integers, 5000)
    rate("answers for math-verify (a worker process)", algebra, 60)
