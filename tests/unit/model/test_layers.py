"""The scan, the convolution, the gated norm and the loss against definitions in fp64."""

import pytest
import torch
import torch.nn.functional as F
from transformers.models.zamba2.modeling_zamba2 import Zamba2RMSNormGated

from model.layers import conv
from model.layers.conv import causal_conv_silu
from model.layers.gated_norm import gated_norm
from model.layers.layout import DocumentLayout
from model.layers.scan import Sizes, chunk_scan
from model.loss import linear_cross_entropy

SIZES = Sizes(heads=4, head_dim=3, groups=2, state=5)


def seq(rows: int, length: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (torch.rand(rows, length, generator=generator) < 0.15).cumsum(1)


def recurrence(
    xbc: torch.Tensor, dt: torch.Tensor, a: torch.Tensor, d: torch.Tensor, documents: torch.Tensor
) -> torch.Tensor:
    """The definition, one token after the other (Dao and Gu, equation 1 and section 6)."""
    heads, width, groups, state = SIZES
    rows, length, _ = xbc.shape
    x, b, c = xbc.split([heads * width, groups * state, groups * state], -1)
    x = x.reshape(rows, length, heads, width)
    b, c = (
        v.reshape(rows, length, groups, state).repeat_interleave(heads // groups, 2) for v in (b, c)
    )
    s = x.new_zeros(rows, heads, width, state)
    out = []
    for t in range(length):
        same = documents[:, t] == documents[:, max(t - 1, 0)]
        s = torch.where(same[:, None, None, None], s, 0) * torch.exp(dt[:, t] * a)[..., None, None]
        s = s + (dt[:, t, :, None] * x[:, t])[..., None] * b[:, t, :, None, :]
        out.append((s * c[:, t, :, None, :]).sum(-1) + d[:, None] * x[:, t])
    return torch.stack(out, 1).reshape(rows, length, heads * width)


@pytest.mark.parametrize("length", [1, 2, 7, 16, 17, 50, 97])
@pytest.mark.parametrize("packed", [False, True])
def test_scan_equals_the_recurrence(length: int, packed: bool) -> None:
    generator = torch.Generator().manual_seed(length)
    width = SIZES.heads * SIZES.head_dim + 2 * SIZES.groups * SIZES.state
    xbc = torch.randn(2, length, width, generator=generator, dtype=torch.float64)
    dt = F.softplus(torch.randn(2, length, 4, generator=generator, dtype=torch.float64))
    a = -8 * torch.rand(4, generator=generator, dtype=torch.float64)
    d = torch.randn(4, generator=generator, dtype=torch.float64)
    documents = seq(2, length, length) if packed else torch.zeros(2, length, dtype=torch.long)
    inputs = tuple(v.requires_grad_() for v in (xbc, dt, a, d))
    want = recurrence(xbc, dt, a, d, documents)
    layout = DocumentLayout(documents) if packed else None
    got = chunk_scan(xbc, dt, a, d, SIZES, layout=layout, chunk=16)
    torch.testing.assert_close(got, want, atol=1e-12, rtol=1e-12)
    upstream = torch.randn(want.shape, generator=generator, dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, upstream),
        torch.autograd.grad(want, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-11, rtol=1e-11)


@pytest.mark.parametrize("chunk", [1, 8, 32, 64])
def test_scan_does_not_depend_on_the_chunk(chunk: int) -> None:
    generator = torch.Generator().manual_seed(0)
    width = SIZES.heads * SIZES.head_dim + 2 * SIZES.groups * SIZES.state
    xbc = torch.randn(1, 70, width, generator=generator, dtype=torch.float64)
    dt = torch.rand(1, 70, 4, generator=generator, dtype=torch.float64)
    a, d = -torch.arange(1, 5).double(), torch.ones(4).double()
    layout = DocumentLayout(seq(1, 70, 1))
    whole = chunk_scan(xbc, dt, a, d, SIZES, layout=layout, chunk=70)
    parts = chunk_scan(xbc, dt, a, d, SIZES, layout=layout, chunk=chunk)
    torch.testing.assert_close(parts, whole, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 9, 40])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("at_once", [1 << 18, 42, 6])
def test_conv_equals_torch_on_each_document(
    length: int, with_bias: bool, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """at_once: values of a block; 42 are seven tokens, so that blocks hold some documents each."""
    monkeypatch.setattr(conv, "_CACHE_VALUES", at_once)
    generator = torch.Generator().manual_seed(length)
    x = torch.randn(2, length, 6, generator=generator, dtype=torch.float64).requires_grad_()
    weight = torch.randn(6, 4, generator=generator, dtype=torch.float64).requires_grad_()
    bias = torch.randn(6, generator=generator, dtype=torch.float64).requires_grad_()
    documents = seq(2, length, length + 3)
    rows = []
    for row in range(2):
        lengths = documents[row].unique_consecutive(return_counts=True)[1].tolist()
        rows.append(
            torch.cat(
                [
                    F.silu(
                        F.conv1d(
                            F.pad(part.T[None], (3, 0)),
                            weight[:, None],
                            bias if with_bias else None,
                            groups=6,
                        )
                    )[0].T
                    for part in x[row].split(lengths)
                ]
            )
        )
    want = torch.stack(rows)
    got = causal_conv_silu(x, weight, bias if with_bias else None, DocumentLayout(documents))
    torch.testing.assert_close(got, want, atol=1e-13, rtol=1e-13)
    inputs = (x, weight, bias) if with_bias else (x, weight)
    upstream = torch.randn(want.shape, generator=generator, dtype=torch.float64)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, upstream),
        torch.autograd.grad(want, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)


def test_spans_hold_whole_documents() -> None:
    """Of three rows, up to 5 tokens at once; a document of 6 stands alone."""
    documents = torch.tensor([[0, 0, 0, 1, 1, 2], [3] * 6, [3, 3, 3, 4, 4, 4]])
    layout = DocumentLayout(documents)
    assert layout.starts.tolist() == [0, 3, 5, 6, 12, 15]
    found = [(span.start, span.stop) for span in layout.spans(5)]
    assert found == [(0, 5), (5, 6), (6, 12), (12, 15), (15, 18)]
    assert layout.spans(18) == [slice(0, 18)]


def test_conv_drops_what_is_not_a_number() -> None:
    """A document of NaN and inf leaves its neighbours finite."""
    x = torch.randn(1, 9, 2)
    x[0, 3:5] = torch.tensor([float("nan"), float("inf")])
    x.requires_grad_()
    layout = DocumentLayout(torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, 2]]))
    out = causal_conv_silu(x, torch.randn(2, 4), None, layout)
    assert out[0, [0, 1, 2, 5, 6, 7, 8]].isfinite().all()
    (grad,) = torch.autograd.grad(out[0, 5:].sum(), x)
    assert not grad[0, :3].any()


def test_gated_norm_equals_transformers() -> None:
    generator = torch.Generator().manual_seed(0)
    module = Zamba2RMSNormGated(12, group_size=4, eps=1e-5).double()
    module.weight.data.normal_(generator=generator)
    y, gate, upstream = (
        torch.randn(2, 5, 12, generator=generator, dtype=torch.float64) for _ in range(3)
    )
    y, gate = y.requires_grad_(), gate.requires_grad_()
    inputs = (y, gate, module.weight)
    # transformers norms in fp32 even for fp64 input, hence the tolerance.
    want, got = module(y, gate), gated_norm(y, gate, module.weight, groups=3, eps=1e-5)
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    for ours, theirs in zip(
        torch.autograd.grad(got, inputs, upstream),
        torch.autograd.grad(want, inputs, upstream),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert torch.autograd.gradcheck(
        lambda *v: gated_norm(*v, groups=3, eps=1e-5), inputs, atol=1e-6
    )


def test_layout_numbers_positions_and_buckets() -> None:
    layout = DocumentLayout(torch.tensor([[4, 4, 7, 7, 7], [0, 1, 1, 1, 1]]))
    assert layout.starts.tolist() == [0, 2, 5, 6]
    assert layout.lengths.tolist() == [2, 3, 1, 4]
    assert layout.position_ids.tolist() == [[0, 1, 0, 1, 2], [0, 0, 1, 2, 3]]
    assert layout.cu_seqlens.tolist() == [0, 2, 5, 6, 10]
    assert layout.document.tolist() == [[0, 0, 1, 1, 1], [2, 3, 3, 3, 3]]
    assert layout.heads(2).tolist() == [0, 1, 2, 3, 5, 6, 7]
    buckets = layout.buckets
    assert sum(count * size for count, size in buckets.groups) == len(buckets.there)
    assert buckets.there[buckets.back].tolist() == list(range(10))
    assert (buckets.there == 10).sum() == len(buckets.there) - 10


@pytest.mark.parametrize("slice_values", [50, 1 << 20])
def test_linear_cross_entropy_equals_torch(
    slice_values: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("model.loss.CPU_LOGITS", slice_values)
    generator = torch.Generator().manual_seed(0)
    hidden = (10 * torch.randn(3, 7, 5, generator=generator)).requires_grad_()
    weight = torch.randn(11, 5, generator=generator).requires_grad_()
    labels = torch.randint(11, (3, 7), generator=generator)
    labels[0, :4] = -100
    want = F.cross_entropy((hidden @ weight.T).flatten(0, 1), labels.flatten(), reduction="sum")
    got = linear_cross_entropy(hidden, weight, labels)
    torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-6)
    for ours, theirs in zip(
        torch.autograd.grad(3 * got, (hidden, weight)),
        torch.autograd.grad(3 * want, (hidden, weight)),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-5)
    assert linear_cross_entropy(hidden, weight, torch.full_like(labels, -100)) == 0
