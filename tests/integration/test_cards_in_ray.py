"""Ray with declared cards (none is needed): what reserves none sees none, and an engine gets its room."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.actor import EngineActor
from engine.config import EngineConfig
from tests import tiny
from tests.integration.test_engine_actor import Clerk, model  # noqa: F401 - a fixture
from workbench.errors import UserError

pytestmark = pytest.mark.integration
KILLED = """
import os, sys, time
import ray
from engine.actor import EngineActor
ray.init(address=sys.argv[1], namespace=sys.argv[2], log_to_driver=False)
for name, where in (("engine-a-0", sys.argv[2]), ("engine-b-0", "somebody-elses")):
    made = ray.remote(EngineActor).options(
        name=name, namespace=where, lifetime="detached", num_gpus=0.1, num_cpus=0
    ).remote()
    assert ray.get(made.is_idle.remote())
print("up", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    import ray

    from workbench.cluster import thread_environment

    os.environ.update(thread_environment())
    tool = tmp_path_factory.mktemp("bin") / "nvidia-smi"  # there is no card here
    tool.write_text("#!/bin/sh\necho 'GPU-8932f937, 24564 MiB'\n")
    tool.chmod(0o755)
    os.environ["PATH"] = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"
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
        ray.remote(task).options(num_gpus=gpus, runtime_env=runtime_env(gpus)).remote(), timeout=240
    )


def test_the_memory_of_each_nodes_cards_is_asked_of_the_node(ray: Any) -> None:
    from workbench.distributed.room import memory_of_cards

    assert memory_of_cards() == [24564 * 2**20]


def test_what_reserves_none_sees_none_and_its_children_see_their_own(ray: Any) -> None:
    assert on(ray, 0) == ""
    assert on(ray, 0.4) == "0"

    def nested() -> tuple[str | None, str | None]:
        """An engine's actor or a worker, started by a stage that reserves nothing itself."""
        import ray as inside

        mine = os.environ.get("CUDA_VISIBLE_DEVICES")
        from workbench.cluster import runtime_env

        child = inside.remote(visible).options(num_gpus=1, runtime_env=runtime_env(1)).remote()
        return mine, inside.get(child, timeout=240)

    assert on(ray, 0, nested) == ("", "0")


def test_a_warm_engine_that_nobody_uses_makes_room_and_a_used_one_is_waited_for_in_time(
    ray: Any,
    model: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from engine import actor, remote

    monkeypatch.setattr(actor, "_WARM_S", 1.0)

    def start(**settings: Any) -> Any:
        made = remote.start_engine(model, EngineConfig(**settings), engine_class=Clerk)
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


def test_engines_of_a_run_that_was_killed_end_before_a_trainer_loads(ray: Any) -> None:
    from ray.util import list_named_actors

    from workbench import cluster

    def named() -> set[tuple[str, str]]:
        found = list_named_actors(all_namespaces=True)
        return {(one["name"], one["namespace"]) for one in found}

    own = cluster.namespace("run", Path("alive"))
    lives = ray.remote(EngineActor).options(
        name="engine-c-0", namespace=own, lifetime="detached", num_cpus=0
    ).remote()  # fmt: skip
    assert ray.get(lives.is_idle.remote())
    where, of_run = ray.get_runtime_context().gcs_address, cluster.namespace("run", Path("killed"))
    driver = subprocess.Popen(
        [sys.executable, "-c", KILLED, where, of_run], cwd=tiny.ROOT, env=tiny.environment(),
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert driver.stdout is not None and driver.stdout.readline() == "up\n"
        cluster.make_room(0.3)
        assert ("engine-a-0", of_run) in named()  # its run lives
    finally:
        driver.kill()
        driver.wait()

    def gone() -> bool:
        cluster.make_room(0.3)
        return ("engine-a-0", of_run) not in named()

    tiny.wait_until(gone, "the engine of the killed run to end")
    assert {("engine-b-0", "somebody-elses"), ("engine-c-0", own)} <= named()
    for name, space in (("engine-b-0", "somebody-elses"), ("engine-c-0", own)):
        ray.kill(ray.get_actor(name, namespace=space))
