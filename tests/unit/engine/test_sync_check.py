"""Proofs of a weight sync: what a digest sees, what an error says, what the limits are."""

import pytest
import torch
import xxhash

from engine.remote import worst_report
from engine.sync_check import (
    SyncError,
    SyncReport,
    check_arrival,
    check_probes,
    digests_of,
    largest_difference,
    probe_ids,
    probe_limit,
    tensor_digest,
)


def test_a_digest_is_of_type_shape_and_every_bit() -> None:
    one = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    by_hand = b"torch.float32 (2, 3)" + one.numpy().tobytes()
    assert tensor_digest(one) == xxhash.xxh3_128(by_hand).hexdigest()
    assert tensor_digest(one.T.contiguous().T) == tensor_digest(one)  # values, not memory
    flipped = one.clone()
    flipped.view(torch.int32)[1, 2] ^= 1
    others = [
        flipped, one.reshape(3, 2), one.double(), one.bfloat16(), one.T, one[[1, 0]], one[:, [0, 2, 1]],
        torch.zeros(()), torch.tensor(-0.0), torch.zeros(0),
    ]  # fmt: skip
    assert len({tensor_digest(t) for t in [one, *others]}) == 11


def test_what_arrives_otherwise_is_named() -> None:
    sent = {f"backbone.{n}": torch.full((2,), float(i)) for i, n in enumerate("abcdefg")}
    digests = digests_of(sent)
    assert sorted(digests) == [f"model.{n}" for n in "abcdefg"]
    check_arrival(digests, list(sent.items()), 3)
    arrived = [
        ("model.a", sent["backbone.a"]), ("model.a", sent["backbone.a"]),
        *((f"model.{n}", sent["backbone.b"]) for n in "bcdefz"),
    ]  # fmt: skip
    with pytest.raises(SyncError) as caught:
        check_arrival(digests, arrived, 3)
    assert str(caught.value) == (
        "weight sync of version 3: what arrived is not what was sent (7 tensors); missing: model.g; "
        "unknown: model.z; twice: model.a; changed: model.c, model.d, model.e and 1 more. "
        "Nothing was loaded"
    )


def test_probes_are_within_the_engine_and_all_but_the_first_change() -> None:
    one, two = probe_ids(300, 100, 1), probe_ids(300, 100, 2)
    assert [len(ids) for ids in one] == [12, 6, 4]
    over_a_chunk = probe_ids(300, 200, 1, chunk=128)
    assert [len(ids) for ids in over_a_chunk] == [140, 6, 4]
    assert one[0] == two[0] and one[1] != two[1] and one[2] != two[2]
    assert one == probe_ids(300, 100, 1)
    assert [len(ids) for ids in probe_ids(300, 11, 1)] == [11, 6, 4]
    again = [probe_ids(300, 100, version, (1, 1, 0)) for version in (1, 2)]
    assert again[0][0] == again[1][0] != one[0] and again[0][1] not in (one[1], again[1][1])
    assert again[0][2] == one[2] and [len(ids) for ids in again[0]] == [12, 6, 4]
    seen = {i for version in range(300) for ids in probe_ids(300, 100, version) for i in ids}
    assert seen == set(range(300))


def test_limits_by_type() -> None:
    assert largest_difference([-1.0, -2.0], [-1.25, -2.0]) == 0.25
    assert largest_difference([-1.0], [-1.0, -2.0]) == float("inf")
    assert largest_difference([float("nan"), -1.0], [-2.0, -1.0]) == float("inf")
    check_probes(SyncReport(9e-4, 9e-4), "float32", 1)
    check_probes(SyncReport(0.2, 0.2), "bfloat16", 1)
    with pytest.raises(SyncError, match=r"probe tokens are off by 0.002 nats \(limit 0.001 in"):
        check_probes(SyncReport(2e-3, 0.0), "float32", 1)
    with pytest.raises(SyncError, match=r"own scoring of them by 0.4 nats \(limit 0.3 in bfloat16"):
        check_probes(SyncReport(0.0, 0.4), "bfloat16", 1)
    # 16 steps of a 256th are a sixteenth [derived].
    check_probes(SyncReport(1.9, 1.9), "bfloat16", 1, largest=32.0)
    with pytest.raises(SyncError, match=r"by 2.1 nats \(limit 2 in bfloat16\)"):
        check_probes(SyncReport(2.1, 0.0), "bfloat16", 1, largest=32.0)
    check_probes(SyncReport(2.1, 0.0), "bfloat16", 1, largest=34.0)
    with pytest.raises(SyncError, match="limit 0.001 in float32"):
        check_probes(SyncReport(2e-3, 0.0), "float32", 1, largest=1e6)
    for largest in (float("nan"), float("inf"), 0.0):
        assert probe_limit("bfloat16", largest) == 0.3
    for value in ("inf", "nan"):
        with pytest.raises(SyncError, match=f"{value} nats"):
            check_probes(SyncReport(float(value), 0.0), "float32", 1)


def test_the_report_of_several_engines_is_of_the_worst() -> None:
    assert worst_report([SyncReport(1e-6, 4e-6), SyncReport(3e-6, 1e-6)]) == (3e-6, 4e-6)
    assert worst_report([SyncReport(1e-6, 4e-6), None]) is None
