"""Weight sync into a real vLLM engine: every corruption is caught, and clean syncs raise no alarm."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from engine.protocol import Request, Sampling
from engine.sync_check import SyncError
from model.lora import has_adapters
from rl.weight_sync import prove
from tests import adapter_faults
from tests.adapter_faults import MINIATURE
from tests.expert_faults import GRANITE
from tests.sync_pair import KINDS, Pair, pair_of
from tests.sync_trial import clean_syncs, faults_of, loading, try_faults

pytestmark = pytest.mark.integration
CLEAN = 50


@pytest.fixture(scope="module", params=KINDS)
def pair(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Pair]:
    made = pair_of(request.param, tmp_path_factory.mktemp("pair"))
    yield made
    made.engine.close()


def test_every_corruption_of_a_sync_is_caught(
    pair: Pair, capsys: pytest.CaptureFixture[str]
) -> None:
    found = try_faults(pair)
    with capsys.disabled():
        print(f"\n{found}")
    assert len(set(found.names)) == len(found.names) >= 30
    assert found.missed == []
    assert found.otherwise == []
    assert found.alarms == []


def test_clean_syncs_raise_no_alarm(pair: Pair, capsys: pytest.CaptureFixture[str]) -> None:
    says, alarms = clean_syncs(pair, CLEAN)
    with capsys.disabled():
        print(says)
    assert alarms == []


def test_every_tensor_but_experts_is_read_back(pair: Pair) -> None:
    from engine.readback import Readback

    pair.sync()
    found = Readback(pair.engine.live_model(), pair.state())
    of_experts = {name for name in pair.state() if ".block_sparse_moe." in name}
    assert set(found.unread) == of_experts and bool(of_experts) == pair.experts
    assert set(found.errors) == set(pair.state()) - of_experts
    assert all(found.errors[name] <= found.tolerances[name] for name in found.errors)


def test_a_base_that_is_another_leaves_the_old_weights(pair: Pair) -> None:
    if not has_adapters(pair.model):
        pytest.skip("whole weights stand on nothing")
    pair.sync()
    held, ask = pair.version, Sampling(max_tokens=3)
    faults = faults_of(pair).BASE
    for name in ("one bit of the engine's file", "the folder gone"):
        pair.move()
        with pytest.raises(SyncError, match="Nothing was loaded"), faults[name](pair):
            pair.sync()
        ((done,),) = pair.engine.generate([[5, 6]], ask)
        assert set(done.versions) == {held}
    pair.sync()


def test_an_engine_in_doubt_samples_nothing(pair: Pair) -> None:
    pair.sync()
    requests = [Request([5, 6], Sampling(max_tokens=3), seed=1)]
    assert len(dict(pair.engine.stream(requests))) == 1
    zeroed = adapter_faults.loaded(GRANITE if pair.experts else MINIATURE)["the loader zeroes D"]
    with pytest.raises(SyncError, match=r"model\.layers\.0\.(mixer|mamba)\.D"), loading(
        pair.engine, lambda new: zeroed(new, new)
    ):  # fmt: skip
        pair.sync()
    with pytest.raises(SyncError, match="nothing is sampled until one succeeds"):
        list(pair.engine.stream(requests))
    pair.sync()
    assert len(dict(pair.engine.stream(requests))) == 1


def test_an_engine_samples_nothing_until_what_it_has_loaded_is_checked(pair: Pair) -> None:
    pair.sync()
    pair.move()
    pair.version += 1
    state = pair.sent()
    proof = prove(pair.model, state, version=pair.version, longest=64)
    pair.engine.submit([Request([5, 6], Sampling(max_tokens=3), seed=1)])
    pair.engine.load_weights(
        state.items(), version=pair.version, digests=proof.digests, base=proof.base
    )
    assert pair.engine.poll(0.1) == [] and pair.engine.num_unfinished == 1
    pair.engine.check_weights(proof.score(), version=pair.version)
    ((_, done),) = pair.engine.poll(60)
    assert set(done.versions) == {pair.version}


def test_an_engine_whose_sender_fails_is_in_doubt_and_waits_for_nothing(pair: Pair) -> None:
    pair.sync()
    proof = replace(prove(pair.model, pair.sent(), version=9_999, longest=64), score=lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    with pytest.raises(ZeroDivisionError):
        pair.engine.update_weights(pair.sent().items(), version=9_999, proof=proof)
    with pytest.raises(SyncError, match="nothing is sampled until one succeeds"):
        pair.engine.generate([[5, 6]], Sampling(max_tokens=3))
    pair.sync()
    assert len(pair.engine.generate([[5, 6]], Sampling(max_tokens=3))) == 1


def test_requests_under_way_survive_a_sync_and_do_not_hold_it_up(pair: Pair) -> None:
    pair.sync()
    before = pair.version
    long = Sampling(max_tokens=100, stop_token_ids=(0,))
    pair.engine.submit([Request([5, n], long, seed=n) for n in range(20)])  # seats: 4
    ended = pair.engine.poll(0.05)
    pair.move()
    pair.sync()
    while pair.engine.num_unfinished:
        ended += pair.engine.poll(0.5)
    assert sorted(place for place, _ in ended) == list(range(20))
    versions = {v for _, done in ended for v in done.versions}
    assert versions == {before, before + 1}
