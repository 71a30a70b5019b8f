"""Ray with declared cards (none is needed): what reserves none sees none, and an engine gets its room."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.config import EngineConfig
from tests.integration.test_engine_actor import Clerk, model  # noqa: F401 - a fixture
from workbench.errors import UserError

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    import ray

    from workbench.cluster import thread_environment

    os.environ.update(thread_environment())
    ray.init(
        address="local", num_cpus=3, num_gpus=1, include_dashboard=False, log_to_driver=False,
        namespace="cards",
    )  # fmt: skip
    yield ray
    ray.shutdown()


def visible() -> str | None:
    return os.environ.get("CUDA_VISIBLE_DEVICES")


def on(ray: Any, gpus: float, task: Any = visible) -> Any:
    from workbench.cluster import runtime_env

    return ray.get(
        ray.remote(task).options(num_gpus=gpus, runtime_env=runtime_env(gpus)).remote(), timeout=60
    )


def test_what_reserves_none_sees_none_and_its_children_see_their_own(ray: Any) -> None:
    assert on(ray, 0) == ""
    assert on(ray, 0.4) == "0"

    def nested() -> tuple[str | None, str | None]:
        """An engine's actor or a worker, started by a stage that reserves nothing itself."""
        import ray as inside

        mine = os.environ.get("CUDA_VISIBLE_DEVICES")
        from workbench.cluster import runtime_env

        child = inside.remote(visible).options(num_gpus=1, runtime_env=runtime_env(1)).remote()
        return mine, inside.get(child, timeout=60)

    assert on(ray, 0, nested) == ("", "0")


def test_a_warm_engine_that_nobody_uses_makes_room_and_a_used_one_is_waited_for_in_time(
    ray: Any,
    model: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from engine import actor

    monkeypatch.setattr(actor, "_WARM_S", 1.0)

    def start(**settings: Any) -> Any:
        made = actor.start_engine(model, EngineConfig(**settings), engine_class=Clerk)
        return made, made.describe()["pid"]

    first, one = start(gpus=0.6, max_num_seqs=1)
    first.close()
    second, two = start(gpus=0.6, max_num_seqs=2)  # of another shape: the warm one had the room
    assert one != two
    monkeypatch.setattr(actor, "ROOM_S", 3.0)
    with pytest.raises(UserError, match=r"no room for an engine of 0 CPUs and 0.6 GPUs in 3 s"):
        start(gpus=0.6, max_num_seqs=3)
    second.close()
    assert start(gpus=0.6, max_num_seqs=2)[1] == two  # warm as before
