"""Packed documents are isolated: against each document alone, to the bit, and in the gradient."""

import copy
import re
import resource
import threading
from collections import defaultdict
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import (
    LlamaConfig,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    NemotronHConfig,
    NemotronHForCausalLM,
)

from model.hybrid import build_config, load_model
from model.layers import attention, conv, isolation, kernels, mixer, scan
from model.layers.install import NO_TIME_STEP_CLAMP, install
from model.layers.isolation import IsolationError, check_isolation
from pretrain.compress.config import PruneConfig
from rl.distill.config import OnPolicyDistillConfig

VOCAB = 64


def tiny_config(pattern: str = "M*M-") -> NemotronHConfig:
    return build_config(
        pattern=pattern,
        hidden_size=24,
        intermediate_size=32,
        mamba_num_heads=4,
        mamba_head_dim=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=6,
        vocab_size=VOCAB,
        n_groups=2,
        ssm_state_size=8,
        chunk_size=16,
        dtype="float32",
    )


def awake(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Weights large enough that state and attention carry across a whole row.

    transformers' initial convolution is so small that a leak would drown in rounding.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "conv1d.weight" in name:
                p.copy_(torch.rand(p.shape, generator=generator) - 0.5)
            elif "dt_bias" in name:
                p.copy_(torch.rand(p.shape, generator=generator) * 4 - 5)
            elif p.ndim == 2:
                p.copy_(torch.randn(p.shape, generator=generator) * p.shape[1] ** -0.5)
    return model


@pytest.fixture(scope="module")
def pair() -> tuple[torch.nn.Module, torch.nn.Module]:
    """(ours, transformers' own) with the same weights."""
    ours = awake(load_model(tiny_config(), seed=0)).eval()
    plain = NemotronHForCausalLM(copy.deepcopy(ours.config))
    plain.set_attn_implementation("sdpa")
    plain.load_state_dict(ours.state_dict())
    return ours, plain.eval()


def layouts(rows: int, length: int, seed: int) -> torch.Tensor:
    """seq_idx [rows, length]: random cuts of many densities, every single offset, all length 1."""
    generator = torch.Generator().manual_seed(seed)
    density = torch.rand(rows, 1, generator=generator) ** 3
    cuts = torch.rand(rows, length, generator=generator) < density
    for row in range(min(rows, length - 1)):
        if row % 2:  # one boundary, at every offset of the chunk in turn
            cuts[row] = False
            cuts[row, row] = True
    cuts[-1] = True
    return cuts.cumsum(1).int()


def documents(seq_idx: torch.Tensor) -> list[tuple[int, slice]]:
    """(row, tokens) of every document."""
    found = []
    for row, numbers in enumerate(seq_idx):
        lengths = numbers.unique_consecutive(return_counts=True)[1].tolist()
        first = 0
        for length in lengths:
            found.append((row, slice(first, first + length)))
            first += length
    return found


def logits_alone(model: torch.nn.Module, ids: torch.Tensor, seq_idx: torch.Tensor) -> torch.Tensor:
    """Each document through `model` by itself; documents of one length share a batch."""
    by_length = defaultdict(list)
    for row, tokens in documents(seq_idx):
        by_length[tokens.stop - tokens.start].append((row, tokens))
    out = torch.empty(*ids.shape, VOCAB)
    for found in by_length.values():
        logits = model(torch.stack([ids[r, t] for r, t in found]), use_cache=False).logits
        for (row, tokens), own in zip(found, logits, strict=True):
            out[row, tokens] = own
    return out


def random_ids(shape: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCAB, shape, generator=torch.Generator().manual_seed(seed))


# 20 x 52 = 1,040 layouts; 32 is the chunk, so lengths around it and off its multiples.
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


def test_self_test_passes_and_leaves_the_model_alone() -> None:
    model = awake(load_model(tiny_config(), seed=0)).train()
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
    )
    llama = load_model(config)
    state = torch.random.get_rng_state()
    check_isolation(model, "fp32")
    check_isolation(llama, "fp32")
    assert model.training
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("layer", ["conv", "scan", "attention"])
def test_self_test_catches_each_leak(layer: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the documents away from one kind of layer at a time."""
    model = awake(load_model(tiny_config(), seed=0))
    if layer == "conv":
        monkeypatch.setattr(
            mixer, "causal_conv_silu", lambda x, w, b, layout: conv.causal_conv_silu(x, w, b)
        )
    elif layer == "scan":
        monkeypatch.setattr(
            mixer,
            "chunk_scan",
            lambda *args, layout: scan.chunk_scan(*args),
        )
    else:
        whole_row = attention.by_documents

        def leak(
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            layout: object,
            dropout: float,
            scaling: float | None,
        ) -> torch.Tensor:
            rows = torch.zeros(query.shape[0], query.shape[2], dtype=torch.int32)
            return whole_row(query, key, value, attention.DocumentLayout(rows), dropout, scaling)

        monkeypatch.setattr(attention, "by_documents", leak)
    with pytest.raises(IsolationError):
        check_isolation(model, "fp32")


def test_self_test_is_of_the_path_that_the_precision_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention that leaks in half precision alone, as a card's own would: fp32 weights under autocast."""
    model = awake(load_model(tiny_config(), seed=0))

    def leak(q: Any, k: Any, v: Any, ends: Any, *rest: Any, **options: Any) -> torch.Tensor:
        asked.append(q.dtype)
        one = (t[None].transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(*one, is_causal=True, enable_gqa=True)
        return out[0].transpose(0, 1)

    asked: list[torch.dtype] = []
    serves = lambda query, key, dropout: query.dtype == torch.bfloat16  # noqa: E731
    monkeypatch.setattr(kernels, "varlen_attention_serves", serves)
    monkeypatch.setattr(kernels, "varlen_attn", leak)
    check_isolation(model, "fp32")
    assert asked == []
    with pytest.raises(IsolationError):
        check_isolation(model, "bf16")
    assert set(asked) == {torch.bfloat16}
    monkeypatch.undo()
    check_isolation(model, "bf16")


def test_every_stage_proves_isolation_in_its_own_precision() -> None:
    """Those that have none compute in fp32."""
    root = Path(__file__).parents[3]
    told = {}
    for folder in ("model", "pretrain", "rl", "sft", "evals", "reward"):
        for path in (root / folder).rglob("*.py"):
            if calls := re.findall(r"check_isolation\(([^():]+)\)", path.read_text()):
                told[str(path.relative_to(root))] = {call.split(", ")[1] for call in calls}
    assert told.pop("rl/distill/stage.py") == told.pop("pretrain/compress/stage.py") == {'"fp32"'}
    for config in (OnPolicyDistillConfig, PruneConfig):
        assert "precision" not in config.model_fields
    by_fp8 = ("sft/stage.py", "pretrain/stage.py", "pretrain/compress/distill.py")
    assert [told.pop(name) for name in by_fp8] == [{"config.computed"}] * 3
    assert len(told) == 4 and all(said == {"config.precision"} for said in told.values())


def test_self_test_is_quick(pair: tuple[torch.nn.Module, torch.nn.Module]) -> None:
    """A bound on its work, not on its time: forward passes over one row of 72 tokens."""
    calls = []
    handle = pair[0].register_forward_hook(lambda *_: calls.append(1))
    check_isolation(pair[0], "fp32")
    handle.remove()
    assert sum(isolation._LENGTHS) == 72
    assert len(calls) == 1 + 3 * len(isolation._LENGTHS)


def test_self_test_catches_a_gradient_that_leaks_where_no_value_does() -> None:
    """A kernel may be right forward and wrong backward: here each token adds 0 of the one before it."""
    model = awake(load_model(tiny_config(), seed=0))

    def leak(layer: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        before = args[0].roll(1, dims=1)
        return (args[0] + (before - before.detach()), *args[1:])

    model.base_model.layers[0].register_forward_pre_hook(leak)
    with pytest.raises(IsolationError, match="gradient of document"):
        check_isolation(model, "fp32")
