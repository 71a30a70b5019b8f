"""The tiny case of torch's attention over documents: see model.layers.parity."""

from collections.abc import Callable, Sequence

import torch

from model.layers import kernels
from model.layers.attention import by_documents
from model.layers.layout import DocumentLayout
from model.layers.parity import TOKENS, Case, Run

_KEYS = 2


def refusal(kind: str, sizes: tuple[int, ...]) -> str:
    """Why it cannot be tried; empty where it can."""
    known = kernels.varlen_attn is not None
    return "" if known else f"is not in this torch ({torch.__version__})"


def case(kind: str, sizes: tuple[int, ...], tokens: int = TOKENS) -> Case:
    """sizes: the width of a head, and how many heads share a key."""
    width, sharing = sizes
    draw = torch.Generator().manual_seed(0)
    inputs = [
        torch.randn(1, tokens, heads * width, generator=draw, dtype=torch.float64)
        for heads in (_KEYS * sharing, _KEYS, _KEYS)
    ]
    torchs = _on_heads(width, lambda q, k, v, at: by_documents(q, k, v, at, 0.0, None))
    return Case(
        _on_heads(width, lambda q, k, v, at: kernels.varlen_attention(q, k, v, at, None)),
        torchs,
        inputs,
        over_tokens=3,
    )


def _on_heads(width: int, attend: Callable[..., torch.Tensor]) -> Run:
    def run(x: Sequence[torch.Tensor], layout: DocumentLayout) -> torch.Tensor:
        heads = (v.view(*v.shape[:2], -1, width).transpose(1, 2) for v in x)
        return attend(*heads, layout).flatten(2)

    return run
