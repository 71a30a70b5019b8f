"""Log-probabilities in slices: the values and gradients of the whole, with the memory of a slice."""

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import Gemma2Config, GraniteConfig, LlamaConfig

import model.logprobs
from model.head import linear_head
from model.hybrid import build_config, load_model
from model.logprobs import (
    Truncation,
    linear_logprobs,
    model_logprobs,
    row_logprobs,
    token_logprobs,
)

HOWS = (Truncation(), Truncation(0.7), Truncation(1.2, 0.9, 7, 0.02))


def made(tokens: int, width: int, vocabulary: int, dtype: torch.dtype) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(3)
    hidden = torch.randn(tokens, width, generator=source, dtype=torch.float64)
    weight = torch.randn(vocabulary, width, generator=source, dtype=torch.float64)
    target = torch.randint(0, vocabulary, (tokens,), generator=source)
    slope = torch.randn(tokens, generator=source, dtype=torch.float64)
    return [hidden.to(dtype), weight.to(dtype), target, slope.to(dtype)]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("rows", [1, 4, 100])
def test_values_and_gradients_are_those_of_all_logits_at_once(
    how: Truncation, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden, weight, target, slope = made(11, 6, 30, torch.float64)
    monkeypatch.setattr(model.logprobs, "CPU_SCORED_LOGITS", rows * 30)
    found, grads = [], []
    for sliced in (True, False):
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        values, supported = (
            linear_logprobs(h, w, target, how) if sliced else token_logprobs(h @ w.T, target, how)
        )
        (values * slope).sum().backward()  # type: ignore[no-untyped-call]
        found.append((values.detach(), supported))
        assert h.grad is not None and w.grad is not None
        grads.append((h.grad, w.grad))
    assert torch.equal(found[0][1], found[1][1])
    assert torch.allclose(found[0][0], found[1][0], rtol=0, atol=1e-12)
    for mine, other in zip(*grads, strict=True):
        assert float(other.abs().max()) > 0.1
        assert torch.allclose(mine, other, rtol=0, atol=1e-12)


class Largest(TorchDispatchMode):
    """The most values that a tensor made under it holds."""

    def __init__(self) -> None:
        super().__init__()
        self.size = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.size = max(self.size, tensor.numel())
        return out


@pytest.mark.parametrize("how", HOWS)
def test_no_tensor_grows_with_tokens_times_vocabulary(
    how: Truncation, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four times the vocabulary and a frozen head: what is held stays a slice of 2,048 values."""
    monkeypatch.setattr(model.logprobs, "CPU_SCORED_LOGITS", 2048)
    for vocabulary in (512, 2048):
        hidden, weight, target, slope = made(64, 2, vocabulary, torch.float32)
        hidden.requires_grad_()
        with Largest() as largest:
            values, _ = linear_logprobs(hidden, weight, target, how)
            (values * slope).sum().backward()  # type: ignore[no-untyped-call]
        # weight itself holds 2 x vocabulary; all logits at once would be 64 x vocabulary.
        assert largest.size <= max(2048, 2 * vocabulary)


def tiny(config: Any) -> Any:
    return load_model(config, seed=1).eval()


SMALL: dict[str, Any] = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "plain"),
    [
        (lambda: build_config("miniature", vocab_size=96, hidden_size=64), True),
        (lambda: LlamaConfig(**SMALL), True),
        (lambda: LlamaConfig(**SMALL, tie_word_embeddings=True), True),
        (lambda: GraniteConfig(**SMALL, logits_scaling=6.0), True),
        (lambda: Gemma2Config(**SMALL, head_dim=8), False),
    ],
)
def test_every_output_layer_is_scored_as_the_model_scores(config: Any, plain: bool) -> None:
    """A cap or a scale of the logits keeps a model from the slices, never from the right values."""
    net = tiny(config())
    assert (linear_head(net) is not None) == plain
    ids = torch.arange(7) * 9
    with torch.no_grad():
        whole = net(input_ids=ids[None], use_cache=False).logits[0].float().log_softmax(-1)
        if not plain:
            return  # windows: this family takes no documents here
        found, supported = model_logprobs(
            net, ids, torch.zeros(7, dtype=torch.int32), torch.arange(6), ids[1:], Truncation()
        )
    assert bool(supported.all())
    assert found.tolist() == pytest.approx(
        whole[:-1].gather(1, ids[1:, None])[:, 0].tolist(), abs=1e-5
    )


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_the_largest_logit_is_that_of_the_whole_row(
    scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By slices where the output layer is a product, by the model's own logits where it scales them."""
    monkeypatch.setattr(model.logprobs, "CPU_SCORED_LOGITS", 3 * SMALL["vocab_size"])
    one = load_model(GraniteConfig(**SMALL, logits_scaling=scale), seed=0)
    ids = torch.arange(7)
    with torch.no_grad():
        logits = one(input_ids=ids[None]).logits
    document = torch.zeros(7, dtype=torch.int32)
    values, size = row_logprobs(one, ids, document)
    assert float(size) == pytest.approx(float(logits.abs().max()), rel=1e-5)
    with torch.no_grad():
        found, _ = model_logprobs(one, ids, document, torch.arange(6), ids[1:], Truncation())
    assert values.tolist() == pytest.approx(found.tolist(), abs=1e-6)
