"""A kernel against torch's operations on a tiny case: what `model.layers.fused` asks before it uses one."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch

from model.layers.layout import DocumentLayout

# Documents of the row: one of one token, one that begins inside a chunk and crosses the next, a ragged end.
_LENGTHS = (37, 1, 2, 67, 16, 10)
TOKENS = sum(_LENGTHS)
# Largest error allowed, relative to the largest value: of the sums, then of the type's own rounding.
LIMIT = {torch.float32: 1e-4, torch.bfloat16: 3e-2, torch.float16: 5e-3}
_TF32 = 5e-3

Run = Callable[[Sequence[torch.Tensor], DocumentLayout], torch.Tensor]


class Case(NamedTuple):
    """One kernel, the torch path it stands for, and inputs in fp64; those over tokens come first."""

    kernel: Run
    torch: Run
    inputs: list[torch.Tensor]
    over_tokens: int


def problem(one: Case, device: torch.device, dtype: torch.dtype) -> str:
    """What is wrong with the kernel on this device; empty where nothing is."""
    with torch.enable_grad(), torch.autocast(device.type, enabled=False):
        layout = documents(device)
        worst = max(errors(one, device, dtype, layout))
        limit = LIMIT[dtype]
        if dtype == torch.float32 and torch.backends.cuda.matmul.allow_tf32:
            limit = _TF32
        if not worst <= limit:
            return f"is off by {worst:.1e} of the largest value here; allowed {limit:.0e}"
        return leak(one, device, dtype, layout)


def documents(device: torch.device) -> DocumentLayout:
    """The row of the tiny case."""
    numbers = torch.arange(len(_LENGTHS)).repeat_interleave(torch.tensor(_LENGTHS))
    return DocumentLayout(numbers.int()[None].to(device))


def errors(
    one: Case, device: torch.device, dtype: torch.dtype, layout: DocumentLayout
) -> list[float]:
    """Of the output and of each gradient, relative to the largest value, against fp64 on the CPU."""
    given = [v.to(dtype) for v in one.inputs]
    want = _all(one.torch, [v.double() for v in given], DocumentLayout(layout.document.cpu()))
    got = _all(one.kernel, [v.to(device) for v in given], layout)
    return [
        float((g.double().cpu() - w).abs().max() / w.abs().max())
        for g, w in zip(got, want, strict=True)
    ]


def _all(run: Run, inputs: list[torch.Tensor], layout: DocumentLayout) -> list[torch.Tensor]:
    leaves = [v.clone().requires_grad_() for v in inputs]
    out = run(leaves, layout)
    weights = torch.linspace(0.5, 1.5, out.numel(), dtype=torch.float64).view_as(out)
    grads = torch.autograd.grad((out * weights.to(out)).sum(), leaves)
    return [out.detach(), *(g.detach() for g in grads)]


def leak(
    one: Case, device: torch.device, dtype: torch.dtype, layout: DocumentLayout, document: int = 3
) -> str:
    """Whether one document changes a bit of another, or its gradient reaches one; empty if not."""
    inputs = [v.to(device=device, dtype=dtype).requires_grad_() for v in one.inputs]
    mine = layout.document[0] == document
    out = one.kernel(inputs, layout)
    (tokens, rest) = inputs[: one.over_tokens], inputs[one.over_tokens :]
    grads = torch.autograd.grad(out[:, mine].float().square().sum(), tokens)
    if any(bool(g[:, ~mine].any()) for g in grads):
        return "lets a gradient reach other documents here"
    with torch.no_grad():
        other = [torch.where(mine[:, None], v + 1, v) for v in tokens]
        changed = one.kernel([*other, *rest], layout)
    if not torch.equal(changed[:, ~mine], out[:, ~mine]):
        return "lets a document change the numbers of others here"
    return ""
