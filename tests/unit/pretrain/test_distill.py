"""Distillation: the loss against plain torch, the step against itself however split, resuming."""

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.nn import functional

from data_mix.config import BlendConfig
from model.hybrid import Hybrid, build_config, load_model
from model.packed import Rows
from model.parallel import GradientWorkers
from pretrain.compress.config import DistillConfig
from pretrain.compress.distill import Distillation, check_pair, run
from pretrain.compress.held_out import compare, summary
from pretrain.compress.kl import linear_kl
from pretrain.rows import RowStream, document_labels
from pretrain.schedule import WSD
from pretrain.train import Trainer
from tests.unit.pretrain.test_train import SIZES, VOCAB, RandomDocuments, assert_same, hooks
from tests.unit.pretrain.test_train import config as training
from workbench.checkpoint import Checkpoints, seed_everything
from workbench.errors import UserError


def student(**changes: Any) -> Hybrid:
    return load_model(build_config(**SIZES | changes), seed=1)


def teacher() -> Hybrid:
    made = load_model(build_config(**SIZES | {"hidden_size": 40, "pattern": "M-*M-"}), seed=2)
    with torch.no_grad():
        made.get_output_embeddings().weight.mul_(20)  # else all distributions are nearly flat
    return made


@pytest.fixture
def unbalanced() -> Rows:
    """Four rows of several documents, with 37, 0, 18 and 11 valid tokens."""
    ids = torch.randint(3, VOCAB, (4, 40), generator=torch.Generator().manual_seed(0))
    seq_idx = torch.zeros(4, 40, dtype=torch.int32)
    seq_idx[:, 13:] = 1
    seq_idx[:, 30:] = 2
    seq_idx[1] = torch.arange(40)
    labels = document_labels(ids, seq_idx)
    labels[2, 20:] = -100
    labels[3, :28] = -100
    return Rows(ids, labels, seq_idx)


def test_a_distance_by_hand() -> None:
    """[derived] Teacher (3/4, 1/4), student (1/2, 1/2): 3/4 ln(3/2) + 1/4 ln(1/2) = 0.1308.

    The other direction would be 1/2 ln(2/3) + 1/2 ln 2 = 0.1438.
    """
    one = torch.ones(1, 1)
    found = linear_kl(
        one, torch.zeros(2, 1), one, torch.tensor([[math.log(3.0)], [0.0]]), torch.tensor([1])
    )
    assert float(found.kl) == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-6)
    assert float(found.next_token) == pytest.approx(math.log(2.0), abs=1e-6)


@pytest.mark.parametrize("slice_values", [1, 100, 1 << 20])
def test_loss_and_gradient_are_those_of_plain_torch(
    slice_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In float64 to 1e-10, in slices of 1, 3 and all tokens."""
    monkeypatch.setattr("model.loss.CPU_LOGITS", slice_values)
    draw = torch.Generator().manual_seed(1)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=draw, dtype=torch.float64)

    hidden, weight = random(2, 7, 5).requires_grad_(), random(31, 5).requires_grad_()
    goal, goal_weight = random(2, 7, 9), random(31, 9)
    labels = torch.randint(0, 31, (2, 7), generator=draw)
    labels[0, :3] = -100
    keep = labels != -100
    own = (hidden @ weight.T).log_softmax(-1)[keep]
    theirs = (goal @ goal_weight.T).log_softmax(-1)[keep]
    want = functional.kl_div(own, theirs, reduction="sum", log_target=True)
    found = linear_kl(hidden, weight, goal, goal_weight, labels)
    torch.testing.assert_close(found.kl, want, atol=1e-10, rtol=1e-10)
    plain = functional.nll_loss(own, labels[keep], reduction="sum")
    torch.testing.assert_close(found.next_token, plain, atol=1e-10, rtol=1e-10)
    assert not found.next_token.requires_grad
    grads = torch.autograd.grad(3 * found.kl, [hidden, weight])
    for got, right in zip(grads, torch.autograd.grad(3 * want, [hidden, weight]), strict=True):
        torch.testing.assert_close(got, right, atol=1e-10, rtol=1e-10)


@pytest.mark.parametrize(("rows", "threads"), [(4, 1), (1, 1), (1, 2), (3, 2)])
def test_a_step_is_the_same_however_it_is_split(unbalanced: Rows, rows: int, threads: int) -> None:
    """Against whole logits of both models and torch's own KL, per valid token of the whole step."""
    small, large = student(), teacher()
    num_valid = unbalanced.num_valid
    assert num_valid == 37 + 0 + 18 + 11
    keep = (functional.pad(unbalanced.labels[:, 1:], (0, 1), value=-100) != -100).flatten()
    own, theirs = (
        m(unbalanced.input_ids, seq_idx=unbalanced.seq_idx)
        .logits.flatten(0, 1)[keep]
        .log_softmax(-1)
        for m in (small, large)
    )
    mean = functional.kl_div(own, theirs.detach(), reduction="sum", log_target=True) / num_valid
    want = torch.autograd.grad(mean, list(small.parameters()))
    objective = Distillation(large)
    parts = [Rows(*(t[i : i + rows] for t in unbalanced)) for i in range(0, 4, rows)]
    losses = [
        lambda part=part: objective.loss_sum(small, part, "fp32") / num_valid for part in parts
    ]
    got = GradientWorkers(list(small.parameters()), threads).run(losses)
    assert mean.item() > 0.5
    assert got == pytest.approx(mean.item(), abs=1e-5)
    for parameter, grad in zip(small.parameters(), want, strict=True):
        torch.testing.assert_close(parameter.grad, grad, atol=2e-6, rtol=1e-5)
    assert all(p.grad is None for p in large.parameters())
    logged = objective.take_metrics(num_valid)
    assert logged["kd_loss"] == pytest.approx(mean.item(), abs=1e-5)
    targets = unbalanced.labels[:, 1:].flatten()
    plain = functional.cross_entropy(
        small(unbalanced.input_ids, seq_idx=unbalanced.seq_idx).logits[:, :-1].flatten(0, 1),
        targets,
    )
    assert logged["next_token_loss"] == pytest.approx(plain.item(), abs=1e-5)


def test_a_model_is_no_distance_from_itself(unbalanced: Rows) -> None:
    model = teacher()
    found = Distillation(model).loss_sum(model, unbalanced, "fp32")
    assert abs(float(found.detach())) < 1e-4
    grads = torch.autograd.grad(found, list(model.parameters()))
    assert max(float(g.abs().max()) for g in grads) < 1e-4


def test_documents_do_not_see_each_other(unbalanced: Rows) -> None:
    """[derived] The first row's loss is the sum of its three documents', each alone."""
    small, objective = student(), Distillation(teacher())
    row = Rows(*(t[:1] for t in unbalanced))
    whole = float(objective.loss_sum(small, row, "fp32").detach())
    alone = 0.0
    for first, last in ((0, 13), (13, 30), (30, 40)):
        ids = row.input_ids[:, first:last]
        seq_idx = torch.zeros_like(ids, dtype=torch.int32)
        part = Rows(ids, document_labels(ids, seq_idx), seq_idx)
        alone += float(objective.loss_sum(small, part, "fp32").detach())
    assert whole == pytest.approx(alone, rel=1e-5)


def test_bf16_is_near_fp32(unbalanced: Rows) -> None:
    small = student()
    large = load_model(build_config(**SIZES | {"hidden_size": 40}), seed=2)
    exact = float(Distillation(large).loss_sum(small, unbalanced, "fp32").detach())
    rough = Distillation(large.to(torch.bfloat16)).loss_sum(small, unbalanced, "bf16")
    rough.backward()
    assert float(rough.detach()) == pytest.approx(exact, rel=0.1)
    assert all(torch.isfinite(p.grad).all() for p in small.parameters() if p.grad is not None)


def trainer(**changes: Any) -> Trainer:
    seed_everything(5)
    stream = RowStream(RandomDocuments(), 40)
    return Trainer(student(), stream, training(**changes), Distillation(teacher()))


def test_a_resumed_distillation_equals_an_uninterrupted_one_to_the_bit(tmp_path: Path) -> None:
    whole, losses = trainer(), []
    assert whole.fit(hooks(losses), Checkpoints(tmp_path / "whole"))
    first, before = trainer(), []
    assert not first.fit(hooks(before, 3), Checkpoints(tmp_path / "cut"))
    seed_everything(99)
    again, after = trainer(), []
    state = Checkpoints(tmp_path / "cut").load_latest()
    assert state is not None
    assert not any("teacher" in name for name in state["model"])
    again.load_state_dict(state)
    assert again.fit(hooks(after), Checkpoints(tmp_path / "cut"))
    assert before + after == losses
    assert_same(again.state_dict(), whole.state_dict())


def test_a_student_comes_nearer_to_its_teacher() -> None:
    one = trainer(total_tokens=30 * 4 * 40)
    held_out = [RowStream(RandomDocuments(), 40).batch(1, 0.0) for _ in range(6)]
    large = one.objective.teacher  # type: ignore[attr-defined]
    before = compare(one.model, large, held_out)
    for _ in range(30):
        one.train_step(one.stream.batch(4, 0.0))
        one.step += 1
    after = compare(one.model, large, held_out)
    assert sum(after["kl"]) < 0.8 * sum(before["kl"])
    found = summary(before, after)["distance"]
    assert found["n"] == 6
    assert found["kl"]["difference"]["ci95"][1] < 0


def test_held_out_figures_are_those_of_whole_logits(unbalanced: Rows) -> None:
    small, large = student(), teacher()
    row = Rows(*(t[2:3] for t in unbalanced))
    found = compare(small, large, [row])
    keep = row.labels[0, 1:] != -100
    with torch.no_grad():
        own, theirs = (
            m(row.input_ids, seq_idx=row.seq_idx).logits[0, :-1][keep].double().log_softmax(-1)
            for m in (small, large)
        )
    targets = row.labels[0, 1:][keep]
    n = int(keep.sum())
    want = {
        "kl": float(functional.kl_div(own, theirs, reduction="sum", log_target=True)) / n,
        "next_token_loss": float(functional.nll_loss(own, targets)),
        "agreement": float((own.argmax(1) == theirs.argmax(1)).double().mean()),
        "teacher_next_token_loss": float(functional.nll_loss(theirs, targets)),
    }
    assert found == {name: [pytest.approx(value, abs=1e-5)] for name, value in want.items()}
    same = compare(large, large, [row])
    assert same["agreement"] == [1.0]
    assert same["kl"] == [pytest.approx(0.0, abs=1e-12)]


BLEND: dict[str, Any] = {
    "sources": {"math": {"type": "pretraining", "category": "math"}},
    "phases": [{"until": 1.0, "weights": {"math": 1}}],
}


@pytest.mark.parametrize(
    ("needs", "says"),
    [
        (["prune"], "teacher 'sft3' is not in needs"),
        (["sft3", "prune"], "put the student's stage first"),
    ],
)
def test_a_recipe_that_mixes_up_teacher_and_student_is_one_line(
    needs: list[str], says: str
) -> None:
    body = {
        "kind": "distill",
        "needs": needs,
        "teacher": "sft3",
        "total_tokens": 10,
        "blend": BLEND,
    }
    with pytest.raises(UserError, match=says) as caught:
        DistillConfig.read(body, where="stages.distill")
    assert "\n" not in str(caught.value)
    fine = DistillConfig.read(body | {"needs": ["prune", "sft3"]}, where="stages.distill")
    assert isinstance(fine.blend, BlendConfig)
    # [secondary] 768 rows a step, 1e-4 to 1e-5.
    assert (fine.rows_per_step, fine.schedule.peak_lr, fine.schedule.min_lr) == (768, 1e-4, 1e-5)


def test_other_vocabularies_are_refused(tokenizer: Any) -> None:
    with pytest.raises(UserError, match="other vocabularies"):
        check_pair(student(), tokenizer, student(vocab_size=VOCAB + 1), tokenizer)
    check_pair(student(), tokenizer, teacher(), tokenizer)


def test_cosine_decay() -> None:
    """[derived] Half way down between the ends at half of the decay, a quarter's cosine at a quarter."""
    wsd = WSD(1.0, 0.2, warmup_tokens=0, decay_tokens=80, total_tokens=100, shape="cosine")
    assert [wsd.lr(t) for t in (0, 20)] == [1.0, 1.0]
    assert wsd.lr(60) == pytest.approx(0.6)
    assert wsd.lr(40) == pytest.approx(0.2 + 0.8 * (1 + math.cos(math.pi / 4)) / 2)
    assert wsd.lr(100) == pytest.approx(0.2)


def test_a_student_that_is_its_own_teacher_is_refused(tmp_path: Path) -> None:
    """`needs: [tokenizer, sft3]`: the first with a model is the teacher."""
    body = {"kind": "distill", "needs": ["tokenizer", "sft3"], "teacher": "sft3", "threads": 1,
            "total_tokens": 10, "blend": BLEND}  # fmt: skip
    folder = tmp_path / "sft3" / "model"
    folder.mkdir(parents=True)
    context: Any = SimpleNamespace(
        config=DistillConfig.read(body, where="stages.distill"), name="distill", seed=0,
        parent_model=folder, inputs={"tokenizer": tmp_path / "tokenizer", "sft3": tmp_path / "sft3"},
    )  # fmt: skip
    with pytest.raises(UserError, match="put the student's stage first"):
        run(context)
    folder.rmdir()
    with pytest.raises(UserError, match="'sft3' makes no model"):
        run(context)
