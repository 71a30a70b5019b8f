"""GRPO on adapters, in bf16 and with recomputed activations: what moves, what the engine gets, what stays."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import rl.weight_sync
from engine.sync_check import tensor_digest
from model.lora import (
    adapter_parameters,
    adapter_tensors,
    adapters_of,
    add_adapters,
    base_tensors,
    merged_tensors,
)
from model.lora_config import LoraConfig
from rl.config import GrpoConfig
from rl.loop import Grpo
from rl.update import accumulate, frozen_logprobs, pack, totals_of
from rl.weight_sync import base_marks
from tests.unit.rl.test_grpo_loop import grpo
from tests.unit.rl.test_grpo_state import Watch
from tests.unit.rl.test_grpo_state import grpo as state_grpo
from workbench.checkpoint import Checkpoints
from workbench.errors import UserError

LORA = {"rank": 2, "alpha": 4}


def with_lora(build: Any, *args: Any, **settings: Any) -> Grpo:
    """A trainer on adapters: `build` makes it on a plain model, as the stage's own are made."""
    plain = build(*args, **settings)
    torch.manual_seed(7)
    model = add_adapters(plain.model, LoraConfig(**LORA))  # type: ignore[arg-type]
    config = plain.config.model_copy(update={"lora": LoraConfig(**LORA)})  # type: ignore[arg-type]
    return Grpo(model, plain.sampler, plain.pool._conversations, config, seed=1)


def test_the_engine_gets_the_adapters_and_the_base_stays(tmp_path: Path) -> None:
    trainer = with_lora(state_grpo, lr=1e-2, loss={"kl_coefficient": 0.1})
    base = {name: tensor.clone() for name, tensor in base_tensors(trainer.model)}
    assert trainer.updater.reference is None
    watch = Watch(trainer)
    assert trainer.fit(watch.hooks(), Checkpoints(tmp_path))
    assert all(torch.equal(base[name], t) for name, t in base_tensors(trainer.model))
    given = trainer.sampler.engine.given  # type: ignore[attr-defined]
    assert len(given) == 5
    assert all(set(tensors) == set(dict(adapter_tensors(trainer.model))) for _, tensors in given)
    first, last = (adapters_of(given[place][1]) for place in (0, -1))
    plain = {name.replace(".base_layer", ""): tensor for name, tensor in base.items()}
    merged = dict(merged_tensors(trainer.model))
    changed = {name for name in merged if not torch.equal(merged[name], plain[name])}
    assert changed == last.keys() == first.keys()
    for name in changed:
        assert torch.equal(last[name].merged(plain[name]), merged[name])
        assert torch.equal(first[name].merged(plain[name]), plain[name])
    kinds = {name.rsplit(".", 2)[-2] for name in changed}
    assert kinds == {"in_proj", "up_proj", "down_proj", "q_proj", "k_proj", "v_proj", "o_proj"}
    sizes = [t.numel() * t.element_size() for t in given[-1][1].values()]
    assert {line["sync_mb"] for line in watch.lines} == {sum(sizes) / 1e6}


def test_the_base_is_digested_once_and_again_where_somebody_writes_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digested = list[Any]()

    def digest(tensor: torch.Tensor) -> str:
        digested.append(tensor)
        return tensor_digest(tensor)

    monkeypatch.setattr(rl.weight_sync, "tensor_digest", digest)
    model = with_lora(state_grpo).model
    marks = base_marks(model)
    assert marks is not None and len(digested) == len(marks) == len(dict(base_tensors(model)))
    with torch.no_grad():
        for parameter in adapter_parameters(model):
            parameter.add_(1)
    assert base_marks(model) is marks and len(digested) == len(marks)
    with torch.no_grad():
        model.get_parameter("model.norm_f.weight")[0].add_(1e-3)  # type: ignore[operator]
    changed = base_marks(model)
    assert changed is not None and len(digested) == 2 * len(marks)
    assert [n for n in marks if marks[n] != changed[n]] == ["model.norm_f.weight"]
    assert base_marks(state_grpo().model) is None


def test_the_reference_is_the_model_without_its_adapters() -> None:
    trainer = with_lora(grpo, lambda n: [1.0, 0.0], lr=1e-2, loss={"kl_coefficient": 0.1})
    batches = pack([r for g in trainer.collect(0).groups for r in g], 8192)
    updater = trainer.updater
    start = frozen_logprobs(trainer.model, batches, updater.truncation)
    trainer.update(trainer.collect(0))
    now = frozen_logprobs(trainer.model, batches, updater.truncation)
    for said, old, new in zip(updater._referred(batches), start, now, strict=True):
        assert torch.equal(said, old) and not torch.allclose(new, old, atol=1e-4)


def test_a_state_holds_the_adapters_alone_and_continues(tmp_path: Path) -> None:
    whole = with_lora(state_grpo, num_steps=2)
    assert whole.fit(Watch(whole).hooks(), Checkpoints(tmp_path / "whole"))
    first = with_lora(state_grpo, num_steps=2)
    assert first.fit(Watch(first, stop_at=1).hooks(), Checkpoints(tmp_path)) is False
    second = with_lora(state_grpo, num_steps=2)
    state = Checkpoints(tmp_path).load_latest()
    assert state is not None and all("lora_" in name for name in state["model"])
    second.load_state_dict(state)
    assert second.fit(Watch(second).hooks(), Checkpoints(tmp_path))
    found = second.model.state_dict()
    assert all(torch.equal(t, found[name]) for name, t in whole.model.state_dict().items())


def gradients(trainer: Grpo, precision: Any) -> tuple[list[torch.Tensor], float]:
    batches = pack([r for g in trainer.collect(0).groups for r in g], 8192)
    updater = trainer.updater
    trainer.model.train()
    trainer.model.zero_grad()
    sums = accumulate(
        trainer.model, batches, updater.settings, updater.truncation, totals=totals_of(batches),
        version=0, precision=precision,
    )  # fmt: skip
    grads = [p.grad for p in trainer.model.parameters() if p.grad is not None]
    return copy.deepcopy(grads), sums["entropy_sum"]


@pytest.mark.parametrize("lora", [False, True])
def test_recomputed_activations_change_no_gradient_and_bf16_rounds_it(lora: bool) -> None:
    def build(**more: Any) -> Grpo:
        mixed = lambda n: [1.0, 0.0]  # noqa: E731
        return with_lora(grpo, mixed, **more) if lora else grpo(mixed, **more)

    plain, entropy = gradients(build(), "fp32")
    again, _ = gradients(build(activations="checkpoint"), "fp32")
    assert sum(float(g.norm()) for g in plain) > 1e-3 and len(plain) == len(again)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))
    rounded, other = gradients(build(precision="bf16"), "bf16")
    assert other == pytest.approx(entropy, rel=0.02) and other != entropy
    flat, near = (torch.cat([g.flatten() for g in grads]) for grads in (plain, rounded))
    assert 1e-4 < float((flat - near).norm() / flat.norm()) < 0.1
    assert all(g.dtype == torch.float32 for g in rounded)


def test_dropout_on_a_policy_that_samples_is_refused() -> None:
    world = {"type": "world", "domain": "math"}
    given = {"kind": "grpo", "prompts": world, "held_out": world, "lora": {"dropout": 0.1}}
    with pytest.raises(
        UserError, match=r"lora\.dropout 0\.1: the policy that samples drops nothing"
    ):
        GrpoConfig.read(given, where="grpo")
