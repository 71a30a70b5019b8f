"""The gradient of an update does not depend on how the rollouts are dealt out (fp64, 1e-10)."""

import functools
import random
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHRMSNorm

from engine.protocol import Completion
from model.logprobs import Truncation
from rl.loss import LossSettings
from rl.sample import Rollout
from rl.update import accumulate, frozen_logprobs, pack, reply_logprobs, totals_of

VOCABULARY = 300
HOW = Truncation(temperature=0.9)
VARIANTS = {
    "token": LossSettings(),
    "sequence": LossSettings(ratio="sequence", aggregate="sequence", correction="sequence"),
    "constant": LossSettings(aggregate="constant", max_tokens=16, kl_coefficient=0.1),
}


class Double(torch.nn.Module):
    """A hybrid in fp64 throughout: transformers rounds its norms and logits to fp32."""

    def __init__(self, hybrid: Any) -> None:
        super().__init__()
        self.hybrid, self.config = hybrid, hybrid.config
        self.base_model, self.get_output_embeddings = hybrid.model, lambda: hybrid.lm_head
        for module in hybrid.modules():
            if isinstance(module, NemotronHRMSNorm):
                module.forward = functools.partial(rms_norm, module)

    def forward(self, logits_to_keep: Any = slice(None), **inputs: Any) -> Any:
        hidden = self.hybrid.model(**inputs).last_hidden_state
        return SimpleNamespace(logits=self.hybrid.lm_head(hidden[:, logits_to_keep]))


def rms_norm(module: Any, x: torch.Tensor) -> torch.Tensor:
    scale = (x.square().mean(-1, keepdim=True) + module.variance_epsilon).rsqrt()
    return module.weight * x * scale


def tiny(seed: int = 0) -> Any:
    from model.hybrid import build_config, load_model

    config = build_config("miniature", vocab_size=VOCABULARY, hidden_size=64)
    return Double(load_model(config, dtype="float64", seed=seed)).train()


def rollouts(count: int = 9) -> list[Rollout]:
    made = random.Random(5)
    out = []
    for _ in range(count):
        prompt = [made.randrange(VOCABULARY) for _ in range(made.randint(1, 9))]
        ids = [made.randrange(VOCABULARY) for _ in range(made.randint(1, 12))]
        done = Completion(
            ids, [-5.7 + made.uniform(-0.3, 0.3) for _ in ids], "", "stop",
            [made.random() < 0.2 for _ in ids], [0] * len(ids),
        )  # fmt: skip
        out.append(Rollout(prompt, done, 0.0, made.uniform(-1, 1), "ok"))
    return out


def gradient(model: Any, done: list[Rollout], row_tokens: int, settings: LossSettings) -> Any:
    rows = pack(done, row_tokens)
    model.zero_grad()
    return grad_of_rows(model, rows, settings, totals_of(rows))


def grad_of_rows(model: Any, rows: Any, settings: LossSettings, totals: Any) -> Any:
    # The policies around it are shifts of this one, so ratios and KL are not trivial.
    olds = [old - 0.05 for old in frozen_logprobs(model, rows, HOW)]
    scored = [
        replace(row, old=old, reference=old + 0.2) for row, old in zip(rows, olds, strict=True)
    ]
    sums = accumulate(model, scored, settings, HOW, totals=totals, version=0)
    return torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None]), sums


@pytest.mark.parametrize("variant", VARIANTS)
def test_gradients_do_not_depend_on_packing_order_or_microbatches(variant: str) -> None:
    model, done = tiny(), rollouts()
    whole, sums = gradient(model, done, 10**6, VARIANTS[variant])
    assert float(whole.norm()) > 1e-4
    shuffled = random.Random(1).sample(done, len(done))
    for order, row_tokens in ((done, 1), (done, 40), (shuffled, 30), (done[::-1], 60)):
        assert len(pack(order, row_tokens)) > 1
        found, others = gradient(model, order, row_tokens, VARIANTS[variant])
        assert float((found - whole).abs().max()) < 1e-10
        assert others == pytest.approx(sums, rel=1e-9)


def test_a_row_is_its_rollouts_alone() -> None:
    model, done = tiny(), rollouts()
    (row,) = pack(done, 10**6)
    assert len(row.input_ids) == sum(len(r.prompt) + len(r.completion.token_ids) for r in done)
    packed = iter(reply_logprobs(model, row, HOW)[0].tolist())
    for one in done:
        ids = torch.tensor([[*one.prompt, *one.completion.token_ids]])
        logits = (
            model(input_ids=ids, use_cache=False).logits[0, len(one.prompt) - 1 : -1]
            / HOW.temperature
        )
        alone = logits.log_softmax(-1).gather(1, torch.tensor(one.completion.token_ids)[:, None])
        assert [next(packed) for _ in one.completion.token_ids] == pytest.approx(
            alone[:, 0].tolist(), abs=1e-10
        )


def test_rows_keep_to_the_token_budget() -> None:
    done = rollouts(60)
    rows = pack(done, 50)
    assert max(len(row.input_ids) for row in rows) <= 50
    assert sum(row.num_sequences for row in rows) == 60
    targets = [i for row in rows for i in row.target.tolist()]
    assert targets == [i for r in done for i in r.completion.token_ids]
    assert sum(len(row.input_ids) for row in rows) / (50 * len(rows)) > 0.7
    (long,) = pack([replace(done[0], prompt=[1] * 99)], 50)
    assert len(long.input_ids) == 99 + len(done[0].completion.token_ids)


def test_replies_with_older_tokens_do_not_count_as_mismatch() -> None:
    model, done = tiny(), rollouts(3)
    old = replace(done[1].completion, versions=[*done[1].completion.versions[:-1], 1])
    done[1] = replace(done[1], completion=old)
    rows = pack(done, 10**6)
    sums = accumulate(model, rows, LossSettings(), HOW, totals=totals_of(rows), version=0)
    chosen = [f.count(False) for f in (r.completion.forced for r in done)]
    assert sums["fresh_tokens"] == chosen[0] + chosen[2]
    assert sums["tokens"] == sum(chosen)
