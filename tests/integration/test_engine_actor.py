"""Engine actors in a real Ray: kept warm, leased, made again when they die."""

import os
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.actor import EngineActor, Lease
from engine.config import EngineConfig
from engine.protocol import Completion, Request, Sampling
from engine.sync_check import Mark, Proof, SyncError, SyncReport
from tests.tiny import wait_until
from workbench.errors import UserError

pytestmark = pytest.mark.integration


class Clerk:
    """A quick stand-in for vLLM with its interface: replies with (pid, version, seed, version that
    was checked)."""

    def __init__(self, model: str, config: EngineConfig) -> None:
        self.version, self.checked, self.waiting = 0, 0, list[tuple[int, Request]]()
        self.stands_on = model

    def submit(self, requests: Sequence[Request]) -> None:
        self.waiting = list(enumerate(requests))

    def poll(self, seconds: float) -> list[tuple[int, Completion]]:
        if not self.waiting:
            return []
        place, request = self.waiting.pop(0)
        ids = [os.getpid(), self.version, request.seed or 0, self.checked]
        return [(place, Completion(ids, [], "", "stop"))]

    @property
    def num_unfinished(self) -> int:
        return len(self.waiting)

    def abort(self) -> None:
        self.waiting = []

    def load_weights(self, tensors: Any, *, version: int, digests: Any, base: Any = None) -> None:
        if not list(tensors):
            raise UserError("no tensors")
        if base is not None and self.stands_on not in base:
            raise SyncError(f"not on {self.stands_on}")
        self.version = version

    def check_weights(self, probes: Any, *, version: int) -> SyncReport:
        if probes == "wrong":
            raise SyncError("weight sync of version 5: D")
        if probes == self.version:
            os.kill(os.getpid(), signal.SIGKILL)
        if probes == "slow":
            time.sleep(2)
        self.checked = version
        return SyncReport(probes, os.getpid())

    def reject_weights(self, *, version: int) -> None:
        self.version = -version

    def load_checkpoint(self, path: str, *, version: int) -> None:
        self.version, self.stands_on = version, path

    def describe(self) -> dict[str, Any]:
        return {"pid": os.getpid()}


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    import ray

    from workbench.cluster import thread_environment

    os.environ.update(thread_environment())
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, namespace="t"
    )
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from safetensors.torch import save_file

    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text('{"hidden_size": 8}')
    (folder / "tokenizer.json").write_text("{}")
    save_file({"w": torch.zeros(2)}, folder / "model.safetensors")
    return folder


def start(model: Path, **settings: Any) -> Any:
    from engine.remote import start_engine

    return start_engine(model, EngineConfig(**settings), engine_class=Clerk)


def proof(probes: Any) -> Proof:
    return Proof({}, lambda: probes)


def replies(engine: Any, n: int) -> list[list[int]]:
    return [group[0].token_ids for group in engine.generate([[1]] * n, Sampling(8, seed=3))]


def test_an_engine_is_warm_for_the_next_stage_and_nobody_elses_meanwhile(
    ray: Any, model: Path
) -> None:
    first = start(model)
    pid = first.describe()["pid"]
    beside = start(model)
    assert beside.describe()["pid"] != pid
    beside.close()
    first.close()
    again = start(model)
    assert again.describe()["pid"] == pid
    del again  # forgotten, not closed
    assert start(model).describe()["pid"] == pid
    assert start(model, dtype="bfloat16").describe()["pid"] != pid


def test_replicas_share_requests_and_answer_in_order(ray: Any, model: Path) -> None:
    engine = start(model, replicas=2)
    engine.update_weights([("w", torch.zeros(1))], version=4)
    found = replies(engine, 9)
    assert [len({r[0] for r in found[i::2]}) for i in (0, 1)] == [1, 1]
    assert found[0][0] != found[1][0]
    assert {r[1] for r in found} == {4}
    one = start(model)
    assert [r[2] for r in replies(one, 9)] == [r[2] for r in found]
    with pytest.raises(UserError, match="^no tensors$"):
        engine.update_weights([], version=5)
    assert {r[1] for r in replies(engine, 2)} == {4}


def test_a_dead_engine_is_made_again_with_its_weights_and_requests(ray: Any, model: Path) -> None:
    engine = start(model, replicas=2)
    engine.update_weights([("w", torch.zeros(1))], version=6)
    before = replies(engine, 8)
    stream = engine.stream([Request([1], Sampling(8), seed=n) for n in range(20)])
    ended = [next(stream)]
    os.kill(before[0][0], signal.SIGKILL)
    ended += stream
    assert sorted(place for place, _ in ended) == list(range(20))  # none lost, none twice
    done = dict(ended)
    assert [done[n].token_ids[2] for n in range(20)] == list(range(20))
    assert {c.token_ids[1] for c in done.values()} == {6}
    after = replies(engine, 8)
    assert after[0][0] != before[0][0] and after[1][0] == before[1][0]
    os.kill(after[1][0], signal.SIGKILL)
    engine.update_weights([("w", torch.zeros(1))], version=7)
    assert {r[1] for r in replies(engine, 8)} == {7}


def test_an_engine_made_again_stands_where_its_adapters_do(
    ray: Any, model: Path, tmp_path: Path
) -> None:
    """On the checkpoint that it was given last, not on the one that it was started with."""
    other = str(shutil.copytree(model, tmp_path / "other"))
    engine = start(model)
    adapters = [("w.lora_A", torch.zeros(1))]

    def on(base: str) -> Proof:
        return replace(proof(0.25), base={base: Mark("float32", "")})

    engine.update_weights(adapters, version=2, proof=on(str(model)))
    engine.load_checkpoint(other, version=3)
    engine.update_weights(adapters, version=4, proof=on(other))
    (one,) = replies(engine, 1)
    os.kill(one[0], signal.SIGKILL)
    (two,) = replies(engine, 1)
    assert two[0] != one[0] and two[1] == 4 and two[3] == 4
    with pytest.raises(SyncError, match="not on .*other"):
        engine.update_weights(adapters, version=5, proof=on(str(model)))


def test_every_replica_checks_a_sync_and_the_worst_report_counts(ray: Any, model: Path) -> None:
    engine = start(model, replicas=2)
    pids = {group[0] for group in replies(engine, 2)}
    weights = [("w", torch.zeros(1))]
    report = engine.update_weights(weights, version=4, proof=proof(0.25))
    assert report == (0.25, max(pids))
    with pytest.raises(SyncError, match="^weight sync of version 5: D$"):
        engine.update_weights(weights, version=5, proof=proof("wrong"))
    assert {r[1] for r in replies(engine, 2)} == {-5}  # a Clerk samples even so


def test_no_engine_is_left_waiting_where_the_sender_fails(ray: Any, model: Path) -> None:
    engine = start(model, replicas=2)
    with pytest.raises(ZeroDivisionError):
        engine.update_weights([("w", torch.zeros(1))], version=3, proof=Proof({}, lambda: 1 / 0))  # type: ignore[arg-type,return-value]
    assert {r[1] for r in replies(engine, 4)} == {-3}


def test_an_engine_that_dies_while_it_is_checked_gets_the_new_weights(
    ray: Any, model: Path
) -> None:
    engine = start(model)
    engine.update_weights([("w", torch.zeros(1))], version=1)
    with pytest.raises(RuntimeError, match="died 4 times"):  # each has version 2 by then
        engine.update_weights([("w", torch.zeros(1))], version=2, proof=proof(2))


def test_an_actor_made_again_beside_a_sync_holds_what_is_being_checked(
    ray: Any, model: Path
) -> None:
    engine = start(model, replicas=2)
    first, second = (group[0] for group in replies(engine, 2))
    weights, slow = [("w", torch.zeros(1))], proof("slow")
    syncing = threading.Thread(target=engine.update_weights, args=(weights,),
                               kwargs={"version": 4, "proof": slow})  # fmt: skip
    syncing.start()
    wait_until(lambda: len(engine._weights) == 2, "the check to begin")
    for pid in (first, second):
        os.kill(pid, signal.SIGKILL)
    found = dict(engine.stream([Request([1], Sampling(8), seed=n) for n in range(8)]))
    syncing.join()
    assert sorted(found) == list(range(8))
    again = dict(engine.stream([Request([1], Sampling(8), seed=n) for n in range(8)]))
    for done in (*found.values(), *again.values()):
        assert (done.token_ids[1], done.token_ids[3]) == (4, 4)
    assert [replica.restarts for replica in engine._replicas] == [1, 1]


def test_requests_that_a_new_actor_does_not_know_are_made_again(ray: Any, model: Path) -> None:
    engine = start(model)
    stream = engine.stream([Request([1], Sampling(8), seed=n) for n in range(6)])
    ended = [next(stream)]
    # As where another thread has made the actor again between two polls.
    ray.get(engine._replicas[0].handle.call.remote("abort"))
    ended += stream
    assert sorted(place for place, _ in ended) == list(range(6))


def test_a_folder_that_is_no_checkpoint_is_refused_at_once(ray: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no config.json"):
        start(tmp_path)


def test_an_engine_that_nobody_uses_leaves_and_is_no_crash(ray: Any) -> None:
    actor = ray.remote(EngineActor).options(name="idle").remote(None, Clerk, 2.0)
    wait_until(lambda: _died(ray, actor), "the idle engine to leave")
    with pytest.raises(ray.exceptions.RayActorError, match=r"killed by `ray\.kill`"):
        ray.get(actor.release.remote(Lease("", 0, 0)))


def _died(ray: Any, actor: Any) -> bool:
    try:
        ray.get(actor.release.remote(Lease("", 0, 0)))
    except ray.exceptions.RayActorError:
        return True
    return False
