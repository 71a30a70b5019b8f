"""The tiny cases of the Triton kernels: see model.layers.parity."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from model.layers.conv import causal_conv_silu
from model.layers.gated_norm import gated_norm
from model.layers.layout import DocumentLayout
from model.layers.parity import TOKENS, Case, Run
from model.layers.scan import LOG2_E, Sizes, chunk_scan
from model.layers.triton import conv, norm, scan


def refusal(kind: str, sizes: tuple[int, ...]) -> str:
    """Why there is no kernel of these sizes; empty where there is one."""
    if kind == "scan" and sizes[1] > scan.MOST_STATE:
        return f"takes a state of at most {scan.MOST_STATE} values a head, got {sizes[1]}"
    if kind == "norm" and sizes[0] > norm.MOST_WIDTH:
        return f"takes parts of at most {norm.MOST_WIDTH} values, got {sizes[0]}"
    return ""


def case(kind: str, sizes: tuple[int, ...], tokens: int = TOKENS) -> Case:
    """The case of a kernel as it is compiled for these sizes."""
    draw = torch.Generator().manual_seed(0)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=draw, dtype=torch.float64)

    if kind == "scan":
        s = Sizes(heads=4, head_dim=sizes[0], groups=2, state=sizes[1])
        width = s.heads * s.head_dim + 2 * s.groups * s.state
        inputs = [normal(1, tokens, width) / 4, normal(1, tokens, 4) - 1, normal(4), normal(4)]
        return Case(_scan_kernel(s), _scan_torch(s), inputs, over_tokens=2)
    if kind == "conv":
        inputs = [normal(1, tokens, 72), normal(72, sizes[0]) / 2, normal(72)]
        return Case(
            lambda x, at: conv.conv_silu(x[0], x[1], x[2], at.places),
            lambda x, at: causal_conv_silu(x[0], x[1], x[2], at),
            inputs,
            over_tokens=1,
        )
    inputs = [
        normal(1, tokens, 2 * sizes[0]),
        normal(1, tokens, 2 * sizes[0]),
        normal(2 * sizes[0]),
    ]
    return Case(
        lambda x, at: norm.gated_norm(x[0], x[1], x[2], groups=2, eps=1e-5),
        lambda x, at: gated_norm(x[0], x[1], x[2], groups=2, eps=1e-5),
        inputs,
        over_tokens=2,
    )


def _rates(x: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    wide = torch.promote_types(x[0].dtype, torch.float32)
    return F.softplus(x[1].to(wide)), -F.softplus(x[2].to(wide)), x[3].to(wide)


def _scan_kernel(sizes: Sizes) -> Run:
    def run(x: Sequence[torch.Tensor], layout: DocumentLayout) -> torch.Tensor:
        dt, a, d = _rates(x)
        return scan.scan(x[0], dt, dt * (a * LOG2_E), d, sizes, layout.places)

    return run


def _scan_torch(sizes: Sizes) -> Run:
    def run(x: Sequence[torch.Tensor], layout: DocumentLayout) -> torch.Tensor:
        dt, a, d = _rates(x)
        return chunk_scan(x[0], dt, a, d, sizes, layout=layout)

    return run
