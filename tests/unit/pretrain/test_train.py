"""The training step: accumulation, threads, and resuming to the bit."""

import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from model.hybrid import build_config, load_model
from model.packed import Rows, token_loss_sum
from model.parallel import GradientWorkers
from pretrain.config import PretrainConfig, ScheduleConfig
from pretrain.rows import RowStream, document_labels
from pretrain.stage import new_model
from pretrain.train import Trainer, TrainingHooks
from workbench.checkpoint import Checkpoints, seed_everything
from workbench.errors import UserError

VOCAB = 64
SIZES: dict[str, Any] = {
    "pattern": "M-*M",
    "hidden_size": 32,
    "intermediate_size": 48,
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": VOCAB,
    "n_groups": 2,
    "ssm_state_size": 8,
    "dtype": "float32",
}


class RandomDocuments:
    """Documents of 1 to 30 tokens that come from all three global generators and a counter."""

    def __init__(self) -> None:
        self.drawn = 0

    def draw(self, progress: float) -> list[int]:
        self.drawn += 1
        length = random.randint(1, 30) if self.drawn % 2 else int(np.random.randint(1, 30))
        return torch.randint(3, VOCAB, (length,)).tolist()

    def state_dict(self) -> dict[str, Any]:
        return {"drawn": self.drawn}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.drawn = state["drawn"]


def config(**changes: Any) -> PretrainConfig:
    fields: dict[str, Any] = {
        "total_tokens": 6 * 4 * 40,
        "row_tokens": 40,
        "rows_per_step": 4,
        "microbatch_rows": 2,
        "schedule": ScheduleConfig(peak_lr=3e-3, min_lr=3e-5, warmup_share=0.2),
        "precision": "fp32",
        "threads": 2,
        "checkpoint_every_steps": 1,
        "log_every_steps": 1,
        **changes,
    }
    return PretrainConfig.model_construct(
        **{n: f.default for n, f in PretrainConfig.model_fields.items()} | fields
    )


def trainer(**changes: Any) -> Trainer:
    seed_everything(5)
    model = load_model(build_config(**SIZES), seed=1)
    return Trainer(model, RowStream(RandomDocuments(), 40), config(**changes))


def hooks(losses: list[float], stop_at: int = 10**9) -> TrainingHooks:
    return TrainingHooks(
        log=lambda step, metrics, tokens: losses.append(metrics["loss"]),
        progress=lambda step, tokens: None,
        should_stop=lambda: len(losses) >= stop_at,
    )


def flat(value: Any, name: str = "") -> dict[str, Any]:
    """Every leaf of a nested state, by its path."""
    if isinstance(value, dict):
        return {k: v for key in value for k, v in flat(value[key], f"{name}/{key}").items()}
    if isinstance(value, (list, tuple)):
        return {k: v for i, x in enumerate(value) for k, v in flat(x, f"{name}/{i}").items()}
    return {name: value}


def assert_same(ours: Any, theirs: Any) -> None:
    mine, other = flat(ours), flat(theirs)
    assert mine.keys() == other.keys()
    for name, value in mine.items():
        same = (
            torch.equal(value, other[name])
            if isinstance(value, torch.Tensor)
            else np.array_equal(value, other[name])
        )
        assert same, name


@pytest.fixture
def unbalanced() -> Rows:
    """Four rows with 39, 0, 19 and 12 valid tokens: a mean of means would be wrong."""
    ids = torch.randint(3, VOCAB, (4, 40), generator=torch.Generator().manual_seed(0))
    seq_idx = torch.zeros(4, 40, dtype=torch.int32)
    seq_idx[1] = torch.arange(40)
    labels = document_labels(ids, seq_idx)
    labels[2, 20:] = -100
    labels[3, :28] = -100
    return Rows(ids, labels, seq_idx)


@pytest.mark.parametrize(("rows", "threads"), [(1, 1), (1, 2), (1, 3), (2, 2), (3, 2)])
def test_accumulated_gradient_is_that_of_the_whole_batch(
    unbalanced: Rows, rows: int, threads: int
) -> None:
    assert unbalanced.num_valid == 39 + 0 + 19 + 12
    model = load_model(build_config(**SIZES), seed=1)
    # Independent of our loss: transformers' logits and torch's own mean over valid tokens.
    logits = model(unbalanced.input_ids, seq_idx=unbalanced.seq_idx).logits
    mean = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), unbalanced.labels[:, 1:].flatten(), ignore_index=-100
    )
    want = torch.autograd.grad(mean, list(model.parameters()))
    parts = [Rows(*(t[i : i + rows] for t in unbalanced)) for i in range(0, 4, rows)]
    losses = [
        lambda part=part: token_loss_sum(model, part, "fp32") / unbalanced.num_valid
        for part in parts
    ]
    got = GradientWorkers(list(model.parameters()), threads).run(losses)
    assert got == pytest.approx(mean.item(), abs=1e-6)
    for parameter, grad in zip(model.parameters(), want, strict=True):
        torch.testing.assert_close(parameter.grad, grad, atol=1e-6, rtol=1e-5)


def test_a_failing_microbatch_raises_and_leaves_no_gradient(unbalanced: Rows) -> None:
    model = load_model(build_config(**SIZES), seed=1)

    def fail() -> torch.Tensor:
        raise RuntimeError("this microbatch fails")

    with pytest.raises(RuntimeError, match="this microbatch fails"):
        GradientWorkers(list(model.parameters()), 2).run(
            [lambda: token_loss_sum(model, unbalanced, "fp32"), fail]
        )
    assert all(p.grad is None for p in model.parameters())


def test_two_runs_are_equal_to_the_bit(tmp_path: Path) -> None:
    ends = []
    for name in ("a", "b"):
        run = trainer()
        assert run.fit(hooks([]), Checkpoints(tmp_path / name))
        ends.append(run.state_dict())
    assert_same(*ends)


@pytest.mark.parametrize("stop_at", [1, 3, 5])
def test_a_resumed_run_equals_an_uninterrupted_one_to_the_bit(tmp_path: Path, stop_at: int) -> None:
    whole, losses = trainer(), []
    assert whole.fit(hooks(losses), Checkpoints(tmp_path / "whole"))
    first, before = trainer(), []
    checkpoints = Checkpoints(tmp_path / "cut")
    assert not first.fit(hooks(before, stop_at), checkpoints)
    seed_everything(99)  # nothing may come from this process's generators
    again, after = trainer(), []
    seed_everything(77)
    with torch.no_grad():
        for parameter in again.model.parameters():
            parameter.normal_()
    state = checkpoints.load_latest()
    assert state is not None
    again.load_state_dict(state)
    assert again.step == stop_at
    assert again.fit(hooks(after), checkpoints)
    assert before + after == losses
    assert_same(again.state_dict(), whole.state_dict())


def test_every_tensor_of_the_state_is_accounted_for(tmp_path: Path) -> None:
    run = trainer()
    run.fit(hooks([], stop_at=2), Checkpoints(tmp_path))
    state = Checkpoints(tmp_path).load_latest()
    assert state is not None
    assert state.keys() == {"step", "model", "optimizer", "stream", "rng"}
    names = [n for n, _ in run.model.named_parameters()]
    assert set(names) <= state["model"].keys()
    # Adam: a step count and two moments for every parameter.
    assert len(state["optimizer"]["state"]) == len(names)
    assert all(
        s.keys() == {"step", "exp_avg", "exp_avg_sq"} for s in state["optimizer"]["state"].values()
    )
    missing = {**state, "model": {k: v for k, v in state["model"].items() if k != names[3]}}
    with pytest.raises(UserError, match=names[3]):
        trainer().load_state_dict(missing)
    one = dict(state["optimizer"]["state"])
    del one[0]
    with pytest.raises(UserError, match="optimizer"):
        trainer().load_state_dict({**state, "optimizer": {**state["optimizer"], "state": one}})


def test_a_checkpoint_of_another_model_is_one_line(tmp_path: Path) -> None:
    run = trainer()
    run.fit(hooks([], stop_at=1), Checkpoints(tmp_path))
    state = Checkpoints(tmp_path).load_latest()
    assert state is not None
    seed_everything(5)
    wider = load_model(build_config(**{**SIZES, "intermediate_size": 64}), seed=1)
    other = Trainer(wider, RowStream(RandomDocuments(), 40), config())
    with pytest.raises(UserError) as caught:
        other.load_state_dict(state)
    assert "\n" not in str(caught.value)
    assert "another shape" in str(caught.value)


@pytest.mark.parametrize("keep", [0, 10, 5000, -1])
def test_a_training_checkpoint_cut_short_is_one_line(tmp_path: Path, keep: int) -> None:
    run = trainer()
    run.fit(hooks([], stop_at=1), Checkpoints(tmp_path))
    path = Checkpoints(tmp_path).paths()[-1]
    data = path.read_bytes()
    path.write_bytes(data[:keep])
    with pytest.raises(UserError, match="damaged") as caught:
        Checkpoints(tmp_path).load_latest()
    assert "\n" not in str(caught.value)


def test_a_loss_that_is_not_finite_does_not_reach_the_weights() -> None:
    run = trainer()
    with torch.no_grad():
        run.model.get_output_embeddings().weight[0, 0] = float("nan")
    before = {n: p.detach().clone() for n, p in run.model.named_parameters()}
    with pytest.raises(FloatingPointError, match="not finite at step 1"):
        run.train_step(run.stream.batch(4, 0.0))
    for name, parameter in run.model.named_parameters():
        assert torch.equal(parameter.nan_to_num(), before[name].nan_to_num())


def test_the_output_layer_may_begin_as_the_embeddings_and_is_a_weight_of_its_own() -> None:
    def made(output_layer: str) -> Any:
        recipe = SimpleNamespace(model=SimpleNamespace(preset=None, overrides=SIZES))
        context: Any = SimpleNamespace(
            recipe=recipe, config=config(output_layer=output_layer), seed=3
        )
        return new_model(context, VOCAB, "cpu")

    drawn, copied = made("random"), made("embeddings")
    rest = dict(drawn.named_parameters())
    head = copied.get_output_embeddings().weight
    assert torch.equal(head, copied.get_input_embeddings().weight)
    assert head.data_ptr() != copied.get_input_embeddings().weight.data_ptr()
    differing = [n for n, p in copied.named_parameters() if not torch.equal(p, rest[n])]
    assert differing == ["lm_head.weight"]
