"""Checks from every kind of Ray worker, where math-verify alone raises or hangs."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.integration
HANG = r"\boxed{\dfrac{5^{(5^{(5^{(5^5)})}-4)}-5}{16}}"
ROOT = str(Path(__file__).resolve().parents[2])


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    import ray
    from ray import cloudpickle

    # The workers cannot import this test module by its name.
    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}},
    )
    yield ray
    ray.shutdown()


def _score(text: str) -> tuple[float | None, str]:
    from reward import check

    check(
        "math", "$x$", "x", timeout_s=60.0
    )  # a warm worker: importing is not the check's own time
    verdict = check("math", text, "(x+1)^2", timeout_s=10.0)
    return verdict.value, verdict.status


def _code() -> float | None:
    from reward import check

    test = {"function": "f", "tests": [[[1], 2]]}
    return check("code", "```python\ndef f(x): return x + 1\n```", test).value


EXPECTED = [(1.0, "ok"), (None, "timeout"), (1.0, "ok")]
TEXTS = ["$x^2+2x+1$", HANG, "$(1+x)(x+1)$"]


def test_tasks_threaded_and_async_actors(ray: Any) -> None:
    class Threaded:
        def score(self, text: str) -> tuple[float | None, str]:
            return _score(text)

        def code(self) -> float | None:
            return _code()

    class Async:
        async def score(self, text: str) -> tuple[float | None, str]:
            return await asyncio.to_thread(_score, text)

        async def blocking(self, text: str) -> tuple[float | None, str]:
            return _score(text)

        async def code(self) -> float | None:
            return await asyncio.to_thread(_code)

    task = ray.remote(num_cpus=0.1)(_score)
    threaded = ray.remote(num_cpus=0.1, max_concurrency=3)(Threaded).remote()
    actor = ray.remote(num_cpus=0.1)(Async).remote()
    assert ray.get([task.remote(t) for t in TEXTS]) == EXPECTED
    assert ray.get([threaded.score.remote(t) for t in TEXTS]) == EXPECTED
    assert ray.get([actor.score.remote(t) for t in TEXTS]) == EXPECTED
    assert ray.get([actor.blocking.remote(t) for t in TEXTS]) == EXPECTED
    assert ray.get([threaded.code.remote(), actor.code.remote()]) == [1.0, 1.0]
