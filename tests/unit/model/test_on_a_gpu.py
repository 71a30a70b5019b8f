"""What a GPU would be given, shown without one: sizes on the meta device, and calls recorded."""

from functools import wraps
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from model.layers import attention, blocks, conv, fused, kernels, parity, scan
from model.layers.conv import _Blocks
from model.layers.layout import DocumentLayout, causal_masks
from model.layers.scan import Sizes, chunk_scan
from model.loss import logit_slices
from workbench import kernels as stage
from workbench.errors import UserError

META = torch.device("meta")
NANO2_12B = Sizes(heads=128, head_dim=80, groups=8, state=128)


def scan_blocks(tokens: int, device: torch.device) -> list[Any]:
    chunk = scan.chunk_tokens(device)
    width = NANO2_12B.heads * NANO2_12B.head_dim + 2 * NANO2_12B.groups * NANO2_12B.state
    made = torch.empty(1, tokens, width, device=META)
    dt = torch.empty(1, tokens, NANO2_12B.heads, device=META)
    masks = causal_masks(chunk, META)
    work = scan._Work(made, dt, dt, NANO2_12B, masks, chunk)
    return work.blocks()


def test_a_row_of_8192_tokens_of_the_12b_is_one_block_of_chunks_of_128() -> None:
    """64 chunks x 128 heads x 128 x 128 values = 2^27 [derived], half of 1 GiB of fp32."""
    assert scan.chunk_tokens(META) == 128
    assert len(scan_blocks(8192, META)) == 1
    assert len(scan_blocks(131072, META)) == 8


def test_the_cpu_keeps_its_cache_sized_blocks() -> None:
    assert scan.chunk_tokens(torch.device("cpu")) == 32
    assert len(list(logit_slices(8192, 131072, torch.device("cpu")))) == 1024


def test_the_loss_of_8192_tokens_of_the_12b_takes_two_slices() -> None:
    """2^29 / 131,072 = 4,096 tokens a slice [derived]; a CPU takes 8."""
    assert [s.stop - s.start for s in logit_slices(8192, 131072, META)] == [4096, 4096]
    assert [s.stop - s.start for s in logit_slices(5, 2**30, META)] == [1] * 5


@pytest.mark.parametrize("values", [1, 1 << 14, 1 << 28])
def test_gpu_sized_chunks_and_blocks_give_the_cpu_paths_numbers(
    values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And change no bit of another document, whatever a block holds."""
    generator = torch.Generator().manual_seed(0)
    sizes, tokens = Sizes(heads=4, head_dim=8, groups=2, state=16), 500
    width = sizes.heads * sizes.head_dim + 2 * sizes.groups * sizes.state
    xbc = torch.randn(1, tokens, width, generator=generator)
    dt = F.softplus(torch.randn(1, tokens, 4, generator=generator))
    a, d = -torch.rand(4, generator=generator), torch.ones(4)
    documents = (torch.rand(1, tokens, generator=generator) < 0.02).cumsum(1)
    layout = DocumentLayout(documents)
    want = chunk_scan(*(v.double() for v in (xbc, dt, a, d)), sizes, layout=layout)
    monkeypatch.setattr(scan, "values_at_once", lambda device, cpu: values)
    inputs = xbc.clone().requires_grad_()
    got = chunk_scan(inputs, dt, a, d, sizes, layout=layout, chunk=128)
    # Sums of up to 128 terms in fp32: a few units in the last place of the largest value.
    assert float((got.detach() - want).abs().max() / want.abs().max()) < 2e-6
    mine = documents[0] == 3
    other = torch.where(mine[:, None], xbc + 1, xbc)
    changed = chunk_scan(other, dt, a, d, sizes, layout=layout, chunk=128)
    assert torch.equal(changed[:, ~mine], got[:, ~mine]) and not torch.equal(changed, got)
    (grad,) = torch.autograd.grad(got[:, mine].square().sum(), inputs)
    assert not grad[:, ~mine].any() and grad[:, mine].any()


def test_whole_documents_are_convolved_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """4 x 1,024 tokens of 12,288 channels are 50M values: below 2^28 [derived]."""
    layout = DocumentLayout(torch.zeros(4, 1024, dtype=torch.int32))
    assert len(_Blocks(layout, 12288, 4).tokens) == 4
    at_once = blocks.values_at_once(META, cpu=1)
    monkeypatch.setattr(conv, "values_at_once", lambda device, cpu: at_once)
    assert len(_Blocks(layout, 12288, 4).tokens) == 1


class OnCuda(torch.Tensor):
    """A CPU tensor that says it is on CUDA."""

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        return True


def on_cuda(value: torch.Tensor) -> torch.Tensor:
    return value.as_subclass(OnCuda)


def test_mamba_ssm_serves_rows_of_one_document_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_scan_kernel", lambda: object())
    monkeypatch.setattr(kernels, "_conv_kernel", lambda: object())
    x = on_cuda(torch.zeros(2, 6, 8))
    alone = DocumentLayout(torch.tensor([[0] * 6, [1] * 6]))
    packed = DocumentLayout(torch.tensor([[0] * 6, [1, 1, 1, 2, 2, 2]]))
    assert kernels.mamba_kernels_serve(x, None) and kernels.mamba_kernels_serve(x, alone)
    assert not kernels.mamba_kernels_serve(x, packed)
    assert not kernels.mamba_kernels_serve(torch.zeros(2, 6, 8), alone)


def test_rows_beyond_32_bit_offsets_take_the_torch_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """The 12B's convolution reads rows of 22,656 values: 94,787 tokens are one too many [derived]."""
    monkeypatch.setattr(kernels, "_scan_kernel", lambda: object())
    monkeypatch.setattr(kernels, "_conv_kernel", lambda: object())

    def view(tokens: int) -> torch.Tensor:
        return on_cuda(
            torch.empty(1, device="meta")
            .expand(1, 1)
            .as_strided((1, tokens, 12288), (tokens * 22656, 22656, 1))
        )

    assert kernels.mamba_kernels_serve(view(94_786), None)
    assert not kernels.mamba_kernels_serve(view(94_787), None)


Q, KV, SCALE = (2, 4, 9, 8), (2, 2, 9, 8), 0.3


def attend(q: Any, k: Any, v: Any, ends: torch.Tensor, **how: Any) -> torch.Tensor:
    """torch's attention over documents, worked out one after the other."""
    parts = []
    for first, last in zip(ends.tolist(), ends.tolist()[1:], strict=False):
        one = (t[None, first:last].transpose(1, 2) for t in (q, k, v))
        out = F.scaled_dot_product_attention(*one, is_causal=True, **how)
        parts.append(out[0].transpose(0, 1))
    return torch.cat(parts)


def varlen(  # as in torch 2.13
    q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, *,
    scale: float | None = None, window_size: tuple[int, int] = (-1, -1), enable_gqa: bool = False,
) -> torch.Tensor:  # fmt: skip
    assert torch.equal(cu_q, cu_k) and max_q == max_k == int(cu_q.diff().max())
    assert window_size == (-1, 0)
    return attend(q, k, v, cu_q, scale=scale, enable_gqa=enable_gqa)


def varlen_before(  # as in torch 2.10
    q: Any, k: Any, v: Any, cu_q: Any, cu_k: Any, max_q: int, max_k: int, is_causal: bool = False
) -> torch.Tensor:
    assert is_causal and q.shape == k.shape
    return attend(q, k, v, cu_q)


@pytest.mark.parametrize("function", [varlen, varlen_before])
def test_both_signatures_of_torchs_attention_over_documents_give_the_cpus_numbers(
    function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "varlen_attn", function)
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(Q, generator=generator)
    key, value = (torch.randn(KV, generator=generator) for _ in range(2))
    layout = DocumentLayout(torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2], [3] * 9]))
    want = attention.by_documents(query, key, value, layout, 0.0, SCALE)
    got = kernels.varlen_attention(query, key, value, layout, SCALE)
    torch.testing.assert_close(got, want, atol=1e-6, rtol=1e-5)


@wraps(varlen)
def leaky(q: Any, k: Any, v: Any, cu_q: Any, *rest: Any, **options: Any) -> torch.Tensor:
    """A document adds 0.001 of its first value to those behind it: below what is compared, not below a bit."""
    ends = cu_q.tolist()
    out = varlen(q, k, v, cu_q, *rest, **options)
    moved = out + 1e-3 * v[ends[2]].sum() * (torch.arange(len(out)) >= ends[3])[:, None, None]
    return moved.to(out.dtype)


@wraps(varlen)
def rough(*args: Any, **options: Any) -> torch.Tensor:
    return varlen(*args, **options) * 1.2


@wraps(varlen)
def unfit(*args: Any, **options: Any) -> torch.Tensor:
    raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.")


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (varlen, ""),
        (rough, "is off by 2"),
        (unfit, "does not run here (RuntimeError: FlashAttention only supports Ampere GPUs"),
        (None, "is not in this torch (2."),
    ],
)
def test_attention_shows_first_that_it_is_right_here(
    function: Any, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernels, "varlen_attn", function)
    told = fused.problem("attention", CPU, torch.bfloat16, (16, 2))
    assert told.startswith(says) and bool(told) == bool(says)


def test_attention_that_leaks_does_not_pass_its_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "varlen_attn", leaky)
    monkeypatch.setattr(parity, "errors", lambda *args: [0.0])
    told = fused.problem("attention", CPU, torch.bfloat16, (16, 2))
    assert told == "lets a gradient reach other documents here"


def test_attention_that_fails_its_trial_falls_back_with_a_line_or_is_refused(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    half = torch.zeros(1, 4, 9, 16, dtype=torch.bfloat16)
    key = half[:, :2]
    monkeypatch.setattr(fused, "_wanted", lambda kind, device: kind == "attention")
    monkeypatch.setattr(kernels, "varlen_attn", varlen)
    fused._why_not.cache_clear()
    try:
        assert kernels.varlen_attention_serves(half, key, 0.0)
        assert not kernels.varlen_attention_serves(half, key, 0.1)
        assert not kernels.varlen_attention_serves(half.float(), key.float(), 0.0)
        fused._why_not.cache_clear()
        monkeypatch.setattr(kernels, "varlen_attn", unfit)
        assert not kernels.varlen_attention_serves(half, key, 0.0)
        assert (
            "attention: torch's operations are used, because the kernel does not run" in caplog.text
        )
        monkeypatch.setattr(stage, "_chosen", "required")
        with pytest.raises(
            UserError, match="kernels is 'required', but the attention kernel does not"
        ):
            kernels.varlen_attention_serves(half, key, 0.0)
    finally:
        fused._why_not.cache_clear()


@pytest.mark.parametrize(
    ("choice", "kinds"),
    [("auto", {"attention", "conv"}), ("torch", set()), ("mamba-ssm", {"attention"})],
)
def test_which_kernels_a_choice_asks_of_a_card(
    choice: str, kinds: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stage, "_chosen", choice)
    asked = {kind for kind in ("attention", "conv") if fused._wanted(kind, torch.device("cuda"))}
    assert asked == kinds
    assert not fused._wanted("attention", CPU)
