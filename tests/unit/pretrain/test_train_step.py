"""One step of the pretraining loop against AdamW, clipping and schedule written out by hand."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from model.packed import Rows
from pretrain.config import ScheduleConfig
from pretrain.rows import document_labels
from pretrain.train import Trainer
from tests.unit.pretrain.test_train import VOCAB, trainer

PEAK, LEAST = 3e-3, 3e-5
# Recipe: no decay on scales, biases, the SSM's own parameters and embeddings.
PLAIN = ("norm", "bias", "A_log", "dt_bias", ".D", "embeddings")


def batch() -> Rows:
    """Four rows with 39, 39, 19 and 3 valid tokens, in microbatches of two: 78 and 22."""
    ids = torch.randint(3, VOCAB, (4, 40), generator=torch.Generator().manual_seed(0))
    seq_idx = torch.zeros(4, 40, dtype=torch.int32)
    labels = document_labels(ids, seq_idx)
    labels[2, 20:] = -100
    labels[3, 4:] = -100
    return Rows(ids, labels, seq_idx)


def mean_gradient(run: Trainer, rows: Rows) -> list[torch.Tensor]:
    """Of transformers' logits and torch's own mean over all valid tokens of the step."""
    logits = run.model(rows.input_ids, seq_idx=rows.seq_idx).logits
    mean = functional.cross_entropy(
        logits[:, :-1].flatten(0, 1), rows.labels[:, 1:].flatten(), ignore_index=-100
    )
    return list(torch.autograd.grad(mean, list(run.model.parameters())))


@pytest.mark.parametrize("clip", [1e9, 0.05], ids=["free", "clipped"])
def test_a_step_is_adamw_on_the_clipped_mean_of_all_valid_tokens(clip: float) -> None:
    """First step: m = 0.1 g, both moments unbiased give g and g^2, so the step is lr g / (|g| + eps)."""
    run, rows = trainer(grad_clip=clip, weight_decay=0.1), batch()
    run.step = 3  # at the peak rate, where decay is seen
    assert rows.num_valid == 39 + 39 + 19 + 3
    grads = mean_gradient(run, rows)
    norm = torch.stack([g.square().sum() for g in grads]).sum().sqrt()
    scale = min(1.0, clip / float(norm))
    assert (scale < 1) == (clip < 1)
    before = {name: p.detach().clone() for name, p in run.model.named_parameters()}
    metrics = run.train_step(rows)
    assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
    lr = metrics["lr"]
    decayed = 0
    for (name, parameter), grad in zip(run.model.named_parameters(), grads, strict=True):
        clipped = grad * scale
        moment = run.optimizer.state[parameter]["exp_avg"]
        torch.testing.assert_close(moment, 0.1 * clipped, atol=1e-7, rtol=1e-4)
        plain = parameter.ndim < 2 or any(part in name for part in PLAIN)
        decayed += not plain
        kept = before[name] * (1.0 if plain else 1 - lr * 0.1)
        sure = clipped.abs() > 1e-5  # below, rounding of the gradient decides its sign
        expected = kept - lr * clipped / (clipped.abs() + 1e-8)
        torch.testing.assert_close(parameter[sure], expected[sure], atol=1e-6, rtol=1e-4)
    assert decayed > 0


def test_each_step_is_made_at_the_rate_of_its_place_in_the_schedule() -> None:
    """Of 960 tokens, 192 warm up and 192 decay, 160 a step: step 6 is 32 tokens into the decay."""
    shape = ScheduleConfig(peak_lr=PEAK, min_lr=LEAST, warmup_share=0.2, decay_share=0.2)
    run, rates = trainer(schedule=shape), []
    plain = run.optimizer.step

    def watched(*args: object, **kwargs: object) -> object:
        rates.append({group["lr"] for group in run.optimizer.param_groups})
        return plain(*args, **kwargs)  # type: ignore[arg-type]

    run.optimizer.step = watched  # type: ignore[method-assign]
    for step in range(6):
        run.step = step
        assert run.train_step(batch())["lr"] == pytest.approx(rates[-1].copy().pop())
    expected = [
        PEAK * 1 / 193,
        PEAK * 161 / 193,
        PEAK,
        PEAK,
        PEAK,
        LEAST + (PEAK - LEAST) * (1 - (32 / 192) ** 0.5),
    ]
    assert all(len(found) == 1 for found in rates)
    assert [found.pop() for found in rates] == pytest.approx(expected)


def test_a_clipped_gradient_has_the_norm_that_was_asked_for() -> None:
    run = trainer(grad_clip=0.05)
    norms = []
    plain = run.optimizer.step

    def watched() -> object:
        norms.append(nn.utils.get_total_norm([p.grad for p in run.model.parameters()]))
        return plain()

    run.optimizer.step = watched  # type: ignore[assignment,method-assign]
    run.train_step(batch())
    assert float(norms[0]) == pytest.approx(0.05, rel=1e-4)
