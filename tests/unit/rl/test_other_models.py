"""GRPO on a model that is not a hybrid: packed log-probabilities of a tied Llama, and what they cost."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig

from engine.config import EngineConfig
from engine.protocol import Completion
from engine.sync_check import Probe, check_arrival
from model import logprobs
from model.hybrid import build_config, load_model
from model.layers.isolation import check_isolation
from model.logprobs import Truncation
from model.weights import check_tensors, checkpoint_specs, tied_names
from rl.sample import Rollout
from rl.update import pack, reply_logprobs
from rl.weight_sync import prove, publish, sync

# Prompt and reply lengths of one row; a document of two tokens among them.
LENGTHS = ((5, 4), (1, 1), (9, 3), (2, 7))


def _llama() -> LlamaForCausalLM:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        tie_word_embeddings=True, initializer_range=0.2,
    )  # fmt: skip
    return LlamaForCausalLM(config).double()


def _rollouts() -> list[Rollout]:
    generator = torch.Generator().manual_seed(1)
    out = []
    for prompt, reply in LENGTHS:
        ids = torch.randint(61, (prompt + reply,), generator=generator).tolist()
        done = Completion(
            ids[prompt:], [-4.0] * reply, "", "stop", [False] * reply, [0] * reply
        )  # fmt: skip
        out.append(Rollout(ids[:prompt], done, 1.0, 1.0, "ok"))
    return out


def _alone(model: Any, rollouts: list[Rollout], temperature: float) -> torch.Tensor:
    """Each rollout by itself through transformers' own path."""
    values = []
    for rollout in rollouts:
        reply = rollout.completion.token_ids
        ids = torch.tensor([[*rollout.prompt, *reply]])
        logits = model(input_ids=ids, use_cache=False).logits[0] / temperature
        shown = logits[len(rollout.prompt) - 1 : -1].log_softmax(-1)
        values.append(shown.gather(1, torch.tensor(reply)[:, None])[:, 0])
    return torch.cat(values)


def test_packed_logprobs_and_gradients_are_those_of_each_reply_alone() -> None:
    plain = _llama()
    packed = load_model(plain.config, dtype="float64")
    packed.load_state_dict(plain.state_dict())
    check_isolation(packed, "fp32")
    rollouts = _rollouts()
    (row,) = pack(rollouts, 64)
    found, supported = reply_logprobs(packed, row, Truncation(temperature=0.7))
    expected = _alone(plain, rollouts, 0.7)
    assert bool(supported.all())
    # Rotary tables are fp32 in transformers whatever the model is.
    assert float((found - expected).detach().abs().max()) < 1e-6
    weight = torch.linspace(-1, 1, len(found), dtype=torch.float64)
    (found * weight).sum().backward()
    (expected * weight).sum().backward()
    for (name, mine), theirs in zip(packed.named_parameters(), plain.parameters(), strict=True):
        assert mine.grad is not None and theirs.grad is not None
        assert float((mine.grad - theirs.grad).abs().max()) < 1e-6, name


def test_only_reply_positions_reach_the_output_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_model(_llama().config, seed=0)
    rows: list[int] = []
    product = logprobs.linear_logprobs

    def counted(hidden: torch.Tensor, *rest: Any) -> Any:
        rows.append(len(hidden))
        return product(hidden, *rest)

    monkeypatch.setattr(logprobs, "linear_logprobs", counted)
    (row,) = pack(_rollouts(), 64)
    reply_logprobs(model, row, Truncation())
    assert rows == [sum(reply for _, reply in LENGTHS)]


def test_a_tied_head_is_synced_once_and_stays_tied(tmp_path: Path) -> None:
    model = load_model(_llama().config, seed=0)
    model.save_pretrained(tmp_path)
    sent: list[Any] = []

    class Engine:
        def update_weights(self, tensors: Any, *, version: int, proof: Any) -> None:
            tensors = list(tensors)
            assert "lm_head.weight" not in dict(tensors)
            check_arrival(proof.digests, tensors, version)
            sent.extend(
                check_tensors(checkpoint_specs(tmp_path), tensors, tied=tied_names(tmp_path))
            )

    before = copy.deepcopy(model.state_dict())
    reply_logprobs(model, pack(_rollouts(), 64)[0], Truncation())[0].sum().backward()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    sync(model, Engine(), version=1, longest=64)  # type: ignore[arg-type]
    names = [name for name, _ in sent]
    assert sorted(names) == sorted(checkpoint_specs(tmp_path)) and "lm_head.weight" not in names
    embedding = dict(sent)["model.embed_tokens.weight"]
    assert torch.equal(embedding, model.lm_head.weight)
    assert not torch.equal(embedding, before["model.embed_tokens.weight"])


def test_the_first_probe_crosses_a_chunk_of_the_models_scan() -> None:
    hybrid = load_model(build_config("miniature", vocab_size=61, chunk_size=96), seed=0)
    for model, first in ((hybrid, 108), (load_model(_llama().config, seed=0), 12)):
        proof = prove(model, model.state_dict(), version=1, longest=256)
        assert [len(probe.token_ids) for probe in proof.score()] == [first, 6, 4]


def test_an_engine_in_bf16_is_told_the_size_of_the_policys_logits() -> None:
    """Its probes may be off by more where logits are large; an engine in fp32 needs no such pass."""
    model = load_model(_llama().config, seed=0)
    asked: list[list[Probe]] = []

    class Engine:
        def update_weights(self, tensors: Any, *, version: int, proof: Any) -> None:
            asked.append(proof.score())

    for dtype in ("bfloat16", "float32"):
        config = EngineConfig(dtype=dtype, max_model_len=64)  # type: ignore[arg-type]
        publish(model, Engine(), None, version=1, config=config)  # type: ignore[arg-type]
    half, full = asked
    assert [p.logprobs for p in half] == [p.logprobs for p in full]
    assert {p.largest for p in full} == {0.0}
    with torch.no_grad():
        logits = [model(input_ids=torch.tensor([p.token_ids])).logits.abs().max() for p in half]
    (largest,) = {p.largest for p in half}
    assert largest == pytest.approx(float(max(logits)), rel=1e-4)


def test_a_model_whose_windows_cannot_be_isolated_takes_documents_one_by_one() -> None:
    config = MistralConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, sliding_window=8,
    )  # fmt: skip
    check_isolation(load_model(config, seed=0), "fp32")
