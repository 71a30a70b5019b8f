"""GRPO in two processes: weights, metrics and what an engine is sent are those of one process."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from engine.protocol import Completion
from engine.sync_check import SyncError, check_arrival, digests_of
from environments.rollout import Turn
from model.hybrid import load_model, save_model
from model.lora import adapters_of, add_adapters, base_tensors, merged_tensors
from model.sharding.core import whole_tensors
from model.sharding.files import read_sharded
from rl.config import GrpoConfig
from rl.distill.update import DistillUpdater
from rl.probes import scored
from rl.sample import Rollout
from rl.update import Updater, deal, pack
from rl.weight_sync import base_marks, own_share, sent_state
from tests import tiny_training as tiny
from tests.ranks import on_ranks
from workbench.distributed.mesh import make_mesh

PROMPTS = [[3, 9, 4, 7], [5, 6, 8]]


def groups(count: int, version: int) -> list[list[Rollout]]:
    """Groups of two episodes, the second of two turns; one token in five was forced."""
    made = random.Random(version)

    def reply() -> Completion:
        ids = [made.randrange(3, 65) for _ in range(made.randint(2, 14))]
        odd = [made.random() < 0.2 for _ in ids]
        return Completion(ids, [-4.2] * len(ids), "", "stop", odd, [version] * len(ids))

    out = []
    for _ in range(count):
        prompt, first, last = [made.randrange(3, 65) for _ in range(5)], reply(), reply()
        plain = Rollout(prompt, reply(), 1.0, 0.7, "ok")
        longer = Turn([*prompt, *first.token_ids, 9, 9], last)
        out.append([plain, Rollout(prompt, first, 0.0, -0.7, "ok", later=(longer,))])
    return out


def config(**settings: Any) -> GrpoConfig:
    world = {"type": "world", "domain": "math"}
    base = {
        "kind": "grpo",
        "prompts": world,
        "held_out": world,
        "lr": 1e-3,
        "microbatch_tokens": 64,
    }
    return GrpoConfig.read({**base, **settings}, where="grpo")


def two_steps(updater: Updater, num_groups: int) -> list[dict[str, float]]:
    return [
        updater.update(groups(num_groups, version), version=version, check=lambda sums: None)
        for version in (0, 1)
    ]


def worker(folder: Path, settings: dict[str, Any], num_groups: int, split: int) -> Any:
    mesh = make_mesh(tiny.layout(2, context=split))
    lora = config(**settings).lora
    torch.manual_seed(5)
    model, frozen = read_sharded(folder, mesh, lora=lora), None
    if "loss" in settings and lora is None:
        frozen = read_sharded(folder, mesh)
    updater = Updater(model, config(**settings), mesh, frozen)
    metrics = two_steps(updater, num_groups)
    whole = {name: tensor.clone() for name, tensor in whole_tensors(model)}
    own, marks = own_share(model), base_marks(model)
    assert base_marks(model) is marks  # of the first time: nobody gathers the base again
    return (
        metrics,
        whole,
        own,
        marks,
        [[*p.logprobs, p.largest] for p in scored(model, PROMPTS, half=True)],
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("tiny"))


GSPO: dict[str, Any] = {"loss": {"variant": "gspo", "kl_coefficient": 0.1}, "updates_per_step": 2}
CASES: list[tuple[dict[str, Any], int, int]] = [
    ({}, 5, 1),
    (GSPO, 4, 1),
    (GSPO, 4, 2),  # two that share each row
    ({"activations": "checkpoint", "microbatch_tokens": 8192}, 1, 1),  # one row, so one has none
    ({**GSPO, "lora": {"rank": 2}}, 3, 1),
]


@pytest.mark.parametrize(("settings", "num_groups", "split"), CASES)
def test_two_processes_train_as_one(
    folder: Path, settings: dict[str, Any], num_groups: int, split: int
) -> None:
    torch.manual_seed(5)
    model, how = load_model(folder), config(**settings)
    if how.lora:
        add_adapters(model, how.lora)
    alone = Updater(model, how)
    start = {n: p.detach().clone() for n, p in alone.model.named_parameters() if p.requires_grad}
    wanted = two_steps(alone, num_groups)
    trained = dict(alone.model.named_parameters())
    assert all(not torch.equal(trained[name], start[name]) for name in start)
    state = dict(merged_tensors(alone.model))
    found = on_ranks(2, worker, folder, settings, num_groups, split)
    sent: dict[str, torch.Tensor] = {}
    for metrics, whole, own, marks, logprobs in found:
        for mine, theirs in zip(metrics, wanted, strict=True):
            assert mine == pytest.approx(
                theirs, rel=5e-6, abs=1e-7
            )  # a loss is a small sum of large terms
        assert whole.keys() == state.keys()
        filled = [name for name in state if bool(state[name].any())]  # a frozen bias may be 0
        assert tiny.apart(*({n: values[n] for n in filled} for values in (whole, state))) < 1e-6
        assert not sent.keys() & own.keys()
        sent |= own
        assert marks == base_marks(alone.model)  # a base is frozen: to the bit
        probes = [[*p.logprobs, p.largest] for p in scored(alone.model, PROMPTS, half=True)]
        assert [x for row in logprobs for x in row] == pytest.approx(
            [x for row in probes for x in row], abs=1e-5
        )
    assert sent.keys() == sent_state(alone.model).keys()
    if how.lora is None:  # what the two send together is what they hold, whole and to the bit
        assert digests_of(sent) == digests_of(found[0][1])
    else:
        base, adapters = dict(base_tensors(alone.model)), adapters_of(sent)
        merged = {name: adapter.merged(base[name]) for name, adapter in adapters.items()}
        assert tiny.apart(merged, {name: found[0][1][name] for name in merged}) < 1e-6


def test_rows_are_dealt_longest_first_and_padded() -> None:
    def row(length: int) -> list[Rollout]:
        done = Completion([5] * length, [-1.0] * length, "", "stop", [False] * length, [0] * length)
        return [Rollout([3], done, 1.0, 1.0, "ok")]

    batches = [pack(row(length), 8192)[0] for length in (2, 9, 4, 7, 3)]
    sizes = [[len(b.input_ids) for b in deal(batches, rank, 2)] for rank in (0, 1)]
    assert sizes == [[10, 5, 3], [8, 4, 2]]
    last = deal(batches, 1, 2)[-1]
    assert last.num_sequences == 0 and len(last.target) == 0
    assert [len(deal(batches[:1], rank, 2)) for rank in (0, 1)] == [1, 1]


def test_shares_that_are_lost_swapped_repeated_or_old_are_refused(folder: Path) -> None:
    """Two trainers' shares on the way to an engine; the digests are those of what was sent."""

    def shares(values: dict[str, torch.Tensor]) -> list[list[tuple[str, torch.Tensor]]]:
        named = list(values.items())
        return [named[0::2], named[1::2]]

    new = load_model(folder).state_dict()
    old = {name: tensor * 1.01 for name, tensor in new.items()}
    own, other = shares(new)
    swapped = [(name, tensor) for (name, _), (_, tensor) in zip(own, other, strict=False)]
    faults = {
        "missing": own,
        "twice": [*own, *other, *own],
        "changed": [*own, *shares(old)[1]],
        "unknown": [*own, *other, ("model.layers.9.norm.weight", torch.ones(3))],
    }
    for said, arrived in (*faults.items(), ("changed", [*swapped, *other])):
        with pytest.raises(SyncError, match=said):
            check_arrival(digests_of(new), arrived, version=3)
    check_arrival(digests_of(new), [*other, *own], version=3)


def distilled(folder: Path, teacher: Path, shared: bool) -> Any:
    """Two updates of on-policy distillation, what each reply is worth, and the weights."""
    mesh = make_mesh(tiny.layout(2)) if shared else None
    student, goal = (read_sharded(f, mesh) if mesh else load_model(f) for f in (folder, teacher))
    updater = DistillUpdater(student, goal, lr=1e-3, grad_clip=1.0, mesh=mesh)
    found = []
    for version in (0, 1):
        replies = [rollout for each in groups(3, version) for rollout in each][: 5 - version]
        found += updater.measure(replies, row_tokens=64)
        metrics = updater.update(replies, row_tokens=64, mismatch_limit=1e9)
        found += [metrics[name] for name in sorted(metrics)]
    # One reply: one of two processes has none.
    found += updater.measure(replies[:1], row_tokens=64)
    found.append(updater.update(replies[:1], row_tokens=64, mismatch_limit=1e9)["teacher_kl"])
    return found, tiny.weights(updater.core)


def test_two_processes_distill_on_policy_as_one(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=torch.manual_seed(3)))
    teacher = save_model(model, tmp_path / "teacher", tiny.Words())
    start = dict(load_model(folder).named_parameters())
    wanted, weights = distilled(folder, teacher, False)
    assert all(
        not torch.equal(weights[name], start[name]) for name in start if bool(start[name].any())
    )
    for found, moved in on_ranks(2, distilled, folder, teacher, True):
        assert found == pytest.approx(wanted, rel=5e-6, abs=1e-7)
        filled = [name for name in weights if bool(weights[name].any())]
        assert tiny.apart(*({n: w[n] for n in filled} for w in (moved, weights))) < 5e-6
