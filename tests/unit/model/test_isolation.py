"""Packed documents are isolated: against each document alone, to the bit, and in the gradient."""

import copy
import resource
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch
from transformers import (
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    NemotronHForCausalLM,
)

from model.hybrid import build_config, load_model
from model.layers import mixer, scan
from model.layers.install import NO_TIME_STEP_CLAMP, install
from tests.unit.model.packed_hybrids import (
    VOCAB,
    awake,
    documents,
    layouts,
    logits_alone,
    random_ids,
    tiny_config,
)


@pytest.fixture(scope="module")
def pair() -> tuple[torch.nn.Module, torch.nn.Module]:
    """(ours, transformers' own) with the same weights."""
    ours = awake(load_model(tiny_config(), seed=0)).eval()
    plain = NemotronHForCausalLM(copy.deepcopy(ours.config))
    plain.set_attn_implementation("sdpa")
    plain.load_state_dict(ours.state_dict())
    return ours, plain.eval()


@pytest.mark.parametrize("seed", range(20))
def test_random_layouts(pair: tuple[torch.nn.Module, torch.nn.Module], seed: int) -> None:
    ours, plain = pair
    length = (1, 2, 3, 5, 31, 32, 33, 47, 63, 64, 65, 70, 75, 80, 90, 95, 96, 97, 100, 101)[seed]
    ids, seq_idx = random_ids((52, length), seed), layouts(52, length, seed)
    embeddings = ours.get_input_embeddings()(ids).detach().requires_grad_()
    packed = ours(inputs_embeds=embeddings, seq_idx=seq_idx).logits
    with torch.no_grad():
        torch.testing.assert_close(packed, logits_alone(plain, ids, seq_idx), atol=1e-5, rtol=1e-5)

    # One document a row: its gradient stays inside it, and new tokens in it move no other bit.
    generator = torch.Generator().manual_seed(seed)
    at = torch.randint(length, (52, 1), generator=generator)
    mine = seq_idx == seq_idx.gather(1, at)
    (grad,) = torch.autograd.grad(packed[mine].square().sum(), embeddings)
    assert not grad[~mine].any()
    assert grad[mine].any(-1).all()
    with torch.no_grad():
        changed = ours(torch.where(mine, (ids + 7) % VOCAB, ids), seq_idx=seq_idx).logits
    assert torch.equal(changed[~mine], packed[~mine])
    assert not torch.equal(changed[mine], packed[mine])


def test_every_offset_of_the_chunk_and_the_window(
    pair: tuple[torch.nn.Module, torch.nn.Module],
) -> None:
    """A boundary at each of 64 offsets, followed by documents of 1, 2, 3 and 4 tokens."""
    ours, plain = pair
    rows = []
    for offset in range(1, 65):
        lengths = [offset, 1, 2, 3, 4, 80 - offset - 10]
        rows.append(torch.arange(6).repeat_interleave(torch.tensor(lengths)))
    seq_idx = torch.stack(rows).int()
    ids = random_ids((64, 80))
    with torch.no_grad():
        packed = ours(ids, seq_idx=seq_idx).logits
        alone = logits_alone(plain, ids, seq_idx)
    torch.testing.assert_close(packed, alone, atol=1e-5, rtol=1e-5)


def test_the_proofs_can_fail(pair: tuple[torch.nn.Module, torch.nn.Module]) -> None:
    """transformers' own path leaks by far more than the tolerance on the same weights."""
    _, plain = pair
    ids, seq_idx = random_ids((4, 60)), layouts(4, 60, 1)
    with torch.no_grad():
        leaky = plain(ids, seq_idx=seq_idx, use_cache=False).logits
        alone = logits_alone(plain, ids, seq_idx)
    assert (leaky - alone).abs().max() > 0.1


def test_strong_decay_stays_finite(
    pair: tuple[torch.nn.Module, torch.nn.Module],
) -> None:
    """Decays of exp(-240) a token underflow to 0 and never overflow."""
    ours = copy.deepcopy(pair[0])
    with torch.no_grad():
        for layer in (0, 2):
            ours.model.layers[layer].mixer.dt_bias.fill_(60.0)
    ids, seq_idx = random_ids((2, 70)), layouts(2, 70, 3)
    embeddings = ours.get_input_embeddings()(ids).detach().requires_grad_()
    packed = ours(inputs_embeds=embeddings, seq_idx=seq_idx).logits
    (grad,) = torch.autograd.grad(packed.square().sum(), embeddings)
    assert packed.isfinite().all()
    assert grad.isfinite().all()
    alone = torch.cat(
        [ours(ids[r : r + 1, t], use_cache=False).logits[0] for r, t in documents(seq_idx)]
    )
    torch.testing.assert_close(packed.flatten(0, 1), alone, atol=1e-5, rtol=1e-5)


def test_a_row_of_131072_tokens() -> None:
    """Many documents and one of 6,000 tokens, within memory that no T x T mask would fit."""
    model = awake(load_model(tiny_config("M*"), seed=0)).eval()
    generator = torch.Generator().manual_seed(0)
    lengths = [6_000]
    while sum(lengths) < 131_072:
        lengths.append(int(torch.randint(1, 900, (1,), generator=generator)))
    lengths[-1] -= sum(lengths) - 131_072
    seq_idx = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))[None].int()
    ids = random_ids((1, 131_072))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with torch.no_grad():
        packed = model(ids, seq_idx=seq_idx, logits_to_keep=0).logits
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        assert grown < 2**30  # a boolean mask alone would take 2**34
        first = 0
        for number, length in enumerate(lengths):
            if number % 16 == 0:
                tokens = slice(first, first + length)
                alone = model(ids[:, tokens], use_cache=False).logits
                torch.testing.assert_close(packed[:, tokens], alone, atol=1e-5, rtol=1e-5)
            first += length


def test_gradients_equal_transformers_on_unpacked_rows() -> None:
    config = build_config("miniature", vocab_size=128)
    config.time_step_min = NO_TIME_STEP_CLAMP
    plain = awake(NemotronHForCausalLM(config)).train()
    ours = install(copy.deepcopy(plain))
    ids = torch.randint(128, (2, 150), generator=torch.Generator().manual_seed(0))
    results = []
    for model in (plain, ours):
        out = model(ids, labels=ids, use_cache=False)
        out.loss.backward()
        results.append((out.logits.detach(), {n: p.grad for n, p in model.named_parameters()}))
    torch.testing.assert_close(results[1][0], results[0][0], atol=1e-5, rtol=1e-5)
    for name, theirs in results[0][1].items():
        error = (results[1][1][name] - theirs).norm() / theirs.norm()
        assert error < 1e-5, (name, error)


def test_padding_mask_without_documents_equals_transformers(
    pair: tuple[torch.nn.Module, torch.nn.Module],
) -> None:
    ours, plain = pair
    ids, mask = random_ids((3, 40)), torch.ones(3, 40, dtype=torch.long)
    mask[0, 25:] = 0
    mask[1, :9] = 0
    with torch.no_grad():
        got = ours(ids, attention_mask=mask, use_cache=False).logits
        want = plain(ids, attention_mask=mask, use_cache=False).logits
    torch.testing.assert_close(got[mask.bool()], want[mask.bool()], atol=1e-5, rtol=1e-5)


def test_padding_beside_documents_is_a_document_of_its_own(
    pair: tuple[torch.nn.Module, torch.nn.Module],
) -> None:
    ours, _ = pair
    ids, seq_idx = random_ids((1, 30)), torch.tensor([[0] * 12 + [1] * 18])
    mask = torch.ones(1, 30, dtype=torch.long)
    mask[0, 20:] = 0
    with torch.no_grad():
        padded = ours(ids, seq_idx=seq_idx, attention_mask=mask).logits
        own = torch.tensor([[0] * 12 + [1] * 8 + [2] * 10])
        assert torch.equal(padded, ours(ids, seq_idx=own).logits)


def test_restarting_positions_are_documents(
    pair: tuple[torch.nn.Module, torch.nn.Module],
) -> None:
    """Padding-free collators send position_ids and no seq_idx."""
    ours, _ = pair
    ids = random_ids((1, 30))
    positions = torch.cat([torch.arange(11), torch.arange(19)])[None]
    with torch.no_grad():
        by_position = ours(ids, position_ids=positions, use_cache=False).logits
        by_number = ours(ids, seq_idx=(torch.arange(30) >= 11).int()[None]).logits
    assert torch.equal(by_position, by_number)


def test_generation_with_a_cache_equals_transformers(
    pair: tuple[torch.nn.Module, torch.nn.Module],
) -> None:
    ours, plain = pair
    ids, mask = random_ids((2, 20)), torch.ones(2, 20, dtype=torch.long)
    mask[0, :6] = 0
    options = {"max_new_tokens": 12, "do_sample": False, "attention_mask": mask, "eos_token_id": 99}
    assert torch.equal(ours.generate(ids, **options), plain.generate(ids, **options))


def test_gradient_checkpointing_keeps_documents(
    pair: tuple[torch.nn.Module, torch.nn.Module],
) -> None:
    model = copy.deepcopy(pair[0]).train()
    ids, seq_idx = random_ids((2, 50)), layouts(2, 50, 5)
    grads = []
    for checkpointing in (False, True):
        if checkpointing:
            model.gradient_checkpointing_enable()
        model.zero_grad()
        model(ids, labels=ids, seq_idx=seq_idx).loss.backward()
        grads.append([p.grad.clone() for p in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads, strict=True))


def test_scan_is_in_full_precision_under_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    model = awake(load_model(tiny_config(), seed=0)).eval()
    seen = []
    inner = scan.chunk_scan

    def spy(xbc: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        y = inner(xbc, *args, **kwargs)
        seen.append((xbc.dtype, y.dtype))
        return y

    monkeypatch.setattr(mixer, "chunk_scan", spy)
    ids, seq_idx = random_ids((2, 50)), layouts(2, 50, 5)
    with torch.no_grad():
        exact = model(ids, seq_idx=seq_idx).logits
        with torch.autocast("cpu", torch.bfloat16):
            half = model(ids, seq_idx=seq_idx).logits
    assert set(seen) == {(torch.float32, torch.float32)}
    assert (half - exact).abs().max() < 0.1 * exact.abs().max()


@pytest.mark.parametrize(
    ("seq_idx", "extra", "words"),
    [
        (torch.tensor([[0, 1, 0, 0]]), {}, "decreases"),
        (torch.zeros(1, 3).int(), {}, r"\[1, 3\]"),
        (torch.zeros(1, 4), {}, "whole"),
        (torch.zeros(1, 4).int(), {"use_cache": True}, "use_cache=False"),
        (torch.zeros(1, 4).int(), {"attention_mask": torch.ones(1, 5)}, r"\[1, 5\]"),
    ],
)
def test_bad_document_numbers_are_refused(
    pair: tuple[torch.nn.Module, torch.nn.Module],
    seq_idx: torch.Tensor,
    extra: dict[str, object],
    words: str,
) -> None:
    with pytest.raises(ValueError, match=words):
        pair[0](random_ids((1, 4)), seq_idx=seq_idx, **extra)


def test_documents_with_a_cache_are_refused(
    pair: tuple[torch.nn.Module, torch.nn.Module],
) -> None:
    ours, _ = pair
    ids = random_ids((1, 4))
    cache = ours(ids, use_cache=True).past_key_values
    with pytest.raises(ValueError, match="cache"):
        ours(ids, past_key_values=cache, seq_idx=torch.zeros(1, 4).int())


def test_replaced_attention_is_noticed(pair: tuple[torch.nn.Module, torch.nn.Module]) -> None:
    model = copy.deepcopy(pair[0])
    model.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match="attention was changed to 'sdpa'"):
        model(random_ids((1, 4)), seq_idx=torch.zeros(1, 4).int())


def test_models_that_cannot_isolate_refuse() -> None:
    mamba = install(MambaForCausalLM(MambaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1)))
    windowed = install(
        MistralForCausalLM(
            MistralConfig(
                vocab_size=8,
                hidden_size=8,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=1,
                num_key_value_heads=1,
                sliding_window=4,
            )
        )
    )
    ids, documents = torch.zeros(1, 4).long(), torch.zeros(1, 4).int()
    assert "windows" in windowed.base_model.forward.reason
    assert torch.equal(windowed(ids, seq_idx=documents).logits, windowed(ids).logits)
    assert "Mamba" in mamba.base_model.forward.reason
    with pytest.raises(ValueError, match="does not hand seq_idx to its layers"):
        mamba(ids, seq_idx=documents)  # transformers drops it on the way


def test_a_row_of_another_thread_is_none_of_this_ones() -> None:
    """Microbatches side by side share the model: one begins while another is inside, which must end well."""
    model = load_model(tiny_config(), seed=0)
    ids, rows = random_ids((1, 4)), torch.zeros(1, 4).int()
    begun, ended = threading.Event(), threading.Event()

    def late(*_: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            begun.set()
            ended.wait(20)

    model.register_forward_pre_hook(late)
    with ThreadPoolExecutor(1) as pool:
        other: list[Future[Any]] = []

        def inside(*_: Any) -> None:
            if threading.current_thread() is threading.main_thread():
                other.append(pool.submit(model, ids, seq_idx=rows))
                assert begun.wait(20)

        model.base_model.layers[-1].register_forward_hook(inside)
        try:
            first = model(ids, seq_idx=rows).logits
        finally:
            ended.set()
        assert torch.equal(other[0].result(20).logits, first)
