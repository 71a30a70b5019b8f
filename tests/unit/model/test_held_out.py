"""Held-out loss and accuracy by row, against torch's own on each document alone."""

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from model.held_out import next_token_estimates, next_token_sums, single_rows
from model.hybrid import build_config, load_model
from workbench.statistics import Z

SMALL: dict[str, Any] = {
    "pattern": "M-*-", "hidden_size": 32, "intermediate_size": 64, "mamba_num_heads": 4,
    "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64,
}  # fmt: skip


def samples() -> list[tuple[list[int], list[int]]]:
    made = torch.Generator().manual_seed(1)
    out = []
    for length in (9, 5, 12):
        ids = torch.randint(0, 64, (length,), generator=made).tolist()
        out.append((ids, [-100 if at % 3 == 1 else i for at, i in enumerate(ids)]))
    return out


def alone(model: Any, ids: list[int], labels: list[int]) -> list[float]:
    """[derived] nats, right ones and tokens of one document, from plain logits in fp64."""
    with torch.no_grad():
        logits = model(torch.tensor([ids]), use_cache=False).logits[0, :-1].double()
    targets = torch.tensor(labels[1:])
    nats = cross_entropy(logits, targets, ignore_index=-100, reduction="sum")
    kept = targets != -100
    return [float(nats), float((logits.argmax(1) == targets)[kept].sum()), float(kept.sum())]


@pytest.mark.parametrize(("batch", "multiple"), [(1, 1), (2, 1), (3, 8)])
def test_rows_count_their_own_tokens_whatever_stands_beside_them(batch: int, multiple: int) -> None:
    model = load_model(build_config(**SMALL), seed=3)
    rows = single_rows(samples(), batch=batch, pad=7, multiple=multiple)
    assert all(part.input_ids.shape[1] % multiple == 0 for part in rows)
    found = torch.cat([next_token_sums(model, part, "fp32") for part in rows])
    expected = torch.tensor([alone(model, *one) for one in samples()])
    torch.testing.assert_close(found.float(), expected, rtol=1e-5, atol=1e-5)


def test_the_mean_is_by_token_and_the_interval_by_problem() -> None:
    """[derived] The error of a ratio of sums: residuals nats - ratio * tokens, added up by problem."""
    model = load_model(build_config(**SMALL), seed=3).train()
    parts = [alone(model, *one) for one in samples()]
    nats, tokens = sum(p[0] for p in parts), sum(p[2] for p in parts)
    found = next_token_estimates(
        model, single_rows(samples(), batch=2, pad=0), ["p", "p", "q"], "fp32"
    )
    ratio = nats / tokens
    assert found["loss"].value == pytest.approx(ratio, rel=1e-5)
    assert found["accuracy"].value == pytest.approx(sum(p[1] for p in parts) / tokens)
    rest = [p[0] - ratio * p[2] for p in parts]
    error = (2 * ((rest[0] + rest[1]) ** 2 + rest[2] ** 2)) ** 0.5 / tokens
    assert found["loss"].high - ratio == pytest.approx(Z * error, rel=1e-3)
    assert model.training
