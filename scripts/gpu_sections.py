"""Sections of scripts/gpu_check.py about exactness: each takes the bench and gives figures and `failures`."""

import copy
import io
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from gpu_bench import LIMIT, TINY, Bench, Found, SmallTraining, documents
from torch import nn

from model.hybrid import build_config, load_model
from model.layers import fused, kernels
from model.layers.attention import document_sdpa
from model.layers.conv import causal_conv_silu
from model.layers.gated_norm import gated_norm
from model.layers.isolation import check_isolation
from model.layers.layout import DocumentLayout
from model.layers.scan import Sizes, chunk_scan
from model.loss import linear_cross_entropy
from model.presets import HybridShape, shape


def card(bench: Bench) -> Found:
    """Which card, which paths are live, and whether Triton compiles (or interprets) a kernel here."""
    found: Found = {"device": str(bench.device), "torch": torch.__version__, "failures": []}
    if bench.on_card:
        it = torch.cuda.get_device_properties(bench.device)
        found |= {
            "name": it.name,
            "gib": round(it.total_memory / 2**30, 1),
            "sm": f"{it.major}.{it.minor}",
        }
    half = torch.empty(1, 2, 1, 64, device=bench.device, dtype=torch.bfloat16)
    varlen = kernels.varlen_attention_serves(half, half, 0.0)
    found["attention"] = "varlen_attn" if varlen else "by documents"
    lone = torch.empty(1, 8, 16, device=bench.device)
    lone_documents = kernels.mamba_kernels_serve(lone, None)
    found["scan"] = (
        "Triton" if fused.serves("scan", lone, 64, 128)
        else "mamba-ssm for lone documents" if lone_documents else "torch"
    )  # fmt: skip
    found["triton"], error = _triton(bench)
    if error > 1e-6:
        found["failures"].append(f"a Triton kernel is off by {error:.1e}")
    return found


def _triton(bench: Bench) -> tuple[str, float]:
    import os

    interpreted = os.environ.get("TRITON_INTERPRET") == "1"
    if not (bench.on_card or interpreted):
        return "not tried: no card, and TRITON_INTERPRET is not 1", 0.0
    from gpu_triton import scaled_sum

    x, y = (
        torch.randn(1000, generator=torch.Generator().manual_seed(s)).to(bench.device)
        for s in (0, 1)
    )
    error = float((scaled_sum(x, y, 0.5) - (x + 0.5 * y)).abs().max())
    return ("interpreter" if interpreted else "compiler"), error


def parity(bench: Bench) -> Found:
    """Each operation on the device in fp32 and bf16 against the CPU in fp64, outputs and gradients."""
    tokens = bench.pick(4096, 300)
    layout = documents(tokens, tokens // 12, seed=1)
    errors: dict[str, float] = {}
    failures = []
    for dtype, limit in LIMIT.items():
        for name, (run, inputs) in _operations(bench, tokens, dtype).items():
            for path, error in _against_fp64(bench, run, inputs, layout, dtype).items():
                plain = " by torch" if path == "torch" else ""
                errors[f"{name}{plain} {str(dtype).removeprefix('torch.')}"] = error
                if not error <= limit:
                    failures.append(
                        f"{name}{plain} in {dtype} is off by {error:.1e}; allowed {limit:.0e}"
                    )
    return {"tokens": tokens, "errors": errors, "failures": failures}


Run = Callable[[Sequence[torch.Tensor], DocumentLayout], torch.Tensor]


def _operations(
    bench: Bench, tokens: int, dtype: torch.dtype
) -> dict[str, tuple[Run, list[torch.Tensor]]]:
    """Name -> operation, and its inputs in fp64 on the CPU."""
    draw = torch.Generator().manual_seed(2)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=draw, dtype=torch.float64)

    sizes = bench.pick(Sizes(16, 64, 4, 128), Sizes(4, 8, 2, 16))
    width = sizes.heads * sizes.head_dim + 2 * sizes.groups * sizes.state
    heads, head, vocabulary = 4, 64, bench.pick(4096, 128)
    labels = torch.randint(vocabulary, (1, tokens), generator=draw)
    labels[0, ::7] = -100

    def scan(x: Sequence[torch.Tensor], layout: DocumentLayout) -> torch.Tensor:
        return chunk_scan(x[0], F.softplus(x[1]), -F.softplus(x[2]), x[3], sizes, layout=layout)

    def attend(x: Sequence[torch.Tensor], layout: DocumentLayout) -> torch.Tensor:
        # transformers' head of 16 and more; grouped keys.
        return document_sdpa(nn.Identity(), x[0], x[1], x[2], None, document_layout=layout)[0]

    made: dict[str, tuple[Run, list[torch.Tensor]]] = {
        "conv": (lambda x, y: causal_conv_silu(x[0], x[1], x[2], y), [normal(1, tokens, width), normal(width, 4) / 2, normal(width)]),
        "attention": (attend, [normal(1, heads, tokens, head), normal(1, 2, tokens, head), normal(1, 2, tokens, head)]),
        "loss": (lambda x, y: linear_cross_entropy(x[0], x[1], labels.to(x[0].device)) / tokens, [normal(1, tokens, 64), normal(vocabulary, 64) / 8]),
    }  # fmt: skip
    if dtype != torch.bfloat16:  # these two are always worked out in fp32
        made["scan"] = (
            scan,
            [
                normal(1, tokens, width) / 4,
                normal(1, tokens, sizes.heads) - 1,
                normal(sizes.heads),
                normal(sizes.heads),
            ],
        )
        made["gated norm"] = (
            lambda x, y: gated_norm(x[0], x[1], x[2], groups=4, eps=1e-5),
            [normal(1, tokens, 128), normal(1, tokens, 128), normal(128)],
        )
    return made


def _against_fp64(
    bench: Bench,
    run: Run,
    inputs: list[torch.Tensor],
    layout: torch.Tensor,
    dtype: torch.dtype,
) -> dict[str, float]:
    """By each path the largest error of the output and of every gradient, relative to the largest value."""

    def out(parts: list[torch.Tensor]) -> list[torch.Tensor]:
        leaves = [part.clone().requires_grad_() for part in parts]
        value = run(leaves, DocumentLayout(layout.to(parts[0].device)))
        weights = torch.linspace(0.5, 1.5, value.numel()).to(value).view_as(value)
        return [value.detach(), *torch.autograd.grad((value * weights).sum(), leaves)]

    given = [part.to(dtype) for part in inputs]
    # Of the rounded inputs: only the arithmetic differs.
    want = out([part.double() for part in given])
    errors = {}
    for path in bench.paths:
        with bench.path(path):
            got = out([part.to(bench.device) for part in given])
        errors[path] = max(
            float((g.double().cpu() - w).abs().max() / w.abs().max())
            for g, w in zip(got, want, strict=True)
        )
    return errors


def leak(bench: Bench) -> Found:
    """check_isolation in fp32 and bf16, then layouts of every kind, by each path: 0 bits, gradient exactly 0."""
    model = load_model(
        build_config("miniature", **bench.pick({}, TINY)), device=str(bench.device), seed=0
    )
    half = copy.deepcopy(model).to(torch.bfloat16)
    failures = []
    for path, layouts in zip(bench.paths, (bench.pick(50, 3), 10), strict=False):
        with bench.path(path):
            check_isolation(model, "fp32")
            check_isolation(model, "bf16")  # as most stages train: fp32 weights under autocast
            check_isolation(half, "fp32")
            failures += [f"{one} ({path})" for one in _leaking_layouts(bench, model, half, layouts)]
    long = bench.pick(131072, 2048)
    numbers = documents(long, long // 16, seed=99).to(bench.device)
    with torch.no_grad():
        if problem := _changes_others(half, numbers, seed=99):
            failures.append(f"a row of {long:,} tokens: {problem}")
    return {
        "layouts": bench.pick(50, 3), "longest": long, "mamba-ssm": _stock_leak(bench),
        "failures": failures,
    }  # fmt: skip


def _leaking_layouts(bench: Bench, model: Any, half: Any, layouts: int) -> list[str]:
    found = []
    for seed in range(layouts):
        tokens = (64, 500, 1030)[seed % 3]
        numbers = documents(tokens, (3, 40, 300)[seed // 3 % 3], seed).to(bench.device)
        for name, one in (("fp32", model), ("bf16", half)):
            if problem := _leaks(one, numbers, seed):
                found.append(f"layout {seed} in {name}: {problem}")
    return found


def _stock_leak(bench: Bench) -> str:
    """How many values of others a document changes in mamba-ssm's own scan, which packed rows never meet."""
    if not (bench.on_card and kernels.mamba_ssm_imports()):
        return "not tried: it is not installed, or there is no card"
    draw = torch.Generator(device=bench.device).manual_seed(7)

    def normal(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=draw, device=bench.device)

    x, b, c = normal(1, 72, 4, 64), normal(1, 72, 1, 64), normal(1, 72, 1, 64)
    dt, a, d = F.softplus(normal(1, 72, 4)), -F.softplus(normal(4)), normal(4)
    numbers = torch.tensor([[0] * 37 + [1] * 35], device=bench.device, dtype=torch.int32)
    mine = numbers[0] == 0
    first, second = (
        kernels.chunk_scan(v, t, a, b, c, d=d, chunk=128, seq_idx=numbers)
        for v, t in ((x, dt), (x, torch.where(mine[:, None], dt + 1, dt)))
    )
    others = (first != second)[:, ~mine]
    return f"{int(others.sum())} of {others.numel()} values of another document change"


def _leaks(model: Any, numbers: torch.Tensor, seed: int) -> str:
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(
        vocabulary, numbers.shape, generator=torch.Generator().manual_seed(seed)
    ).to(numbers.device)
    inside = numbers[0] == int(numbers.max()) // 2
    embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
    logits = model(inputs_embeds=embedded, seq_idx=numbers, use_cache=False).logits
    (grad,) = torch.autograd.grad(logits[:, inside].float().square().sum(), embedded)
    if bool(grad[:, ~inside].any()):
        return "a gradient reaches other documents"
    with torch.no_grad():
        return _changes_others(model, numbers, seed)


def _changes_others(model: Any, numbers: torch.Tensor, seed: int) -> str:
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.randint(
        vocabulary, numbers.shape, generator=torch.Generator().manual_seed(seed)
    ).to(numbers.device)
    inside = numbers[0] == int(numbers.max()) // 2
    other = torch.where(inside, (ids + 1) % vocabulary, ids)
    base = model.base_model
    first, second = (
        base(input_ids=i, seq_idx=numbers, use_cache=False).last_hidden_state for i in (ids, other)
    )
    changed = int((first != second)[:, ~inside].sum())
    return f"{changed} values of other documents change" if changed else ""


def long(bench: Bench) -> Found:
    """One Mamba layer of the 12B over rows beyond 2^31 values: each document equals itself alone."""
    s = shape("nano2-12b") if bench.on_card else HybridShape(**{**TINY, "pattern": "M"})  # type: ignore[arg-type]
    config = build_config(None, **{**vars(s), "pattern": "M", "vocab_size": 256})
    dtype = "bfloat16" if bench.on_card else "float32"
    layer = load_model(config, dtype=dtype, device=str(bench.device), seed=0).base_model.layers[0]
    piece, failures, done = bench.pick(8192, 256), [], list[int]()
    for tokens in bench.pick((131072, 262144), (1024, 2048)):
        needed = tokens * (4 * s.conv_dim * 4 + 4 * s.d_inner * 4)
        if bench.on_card and needed > 0.8 * bench.memory:
            continue
        numbers = (torch.arange(tokens, device=bench.device) // piece).int()[None]
        draw = torch.Generator(device=bench.device).manual_seed(3)
        x = torch.randn(1, tokens, s.hidden_size, generator=draw, device=bench.device).to(
            layer.norm.weight.dtype
        )
        with torch.no_grad():
            whole = layer(x, seq_idx=numbers, attention_mask=None)
            for first in (0, tokens // 2 // piece * piece, tokens - piece):
                part = slice(first, first + piece)
                alone = layer(x[:, part], seq_idx=numbers[:, part] * 0, attention_mask=None)
                error = float((whole[:, part] - alone).abs().max() / alone.abs().max())
                if not error <= LIMIT[whole.dtype]:
                    failures.append(
                        f"document at {first:,} of {tokens:,} tokens is off by {error:.1e}"
                    )
        done.append(tokens)
        del whole, x
    if not done:
        failures.append("not enough memory for any of the rows")
    return {"tokens": done, "values_a_row": [t * s.conv_dim for t in done], "failures": failures}


def curve(bench: Bench) -> Found:
    """The same steps on the device and on the CPU, in fp32: 50 within 1e-3, the end within 0.5%."""
    steps, rows, tokens = bench.pick((200, 2, 256), (6, 2, 64))
    here, there = (
        SmallTraining(build_config("miniature", **TINY), device)
        for device in (bench.device, torch.device("cpu"))
    )
    ours, theirs = ([one.step(i, rows, tokens) for i in range(steps)] for one in (here, there))
    gap = max(abs(a - b) for a, b in zip(ours[:50], theirs[:50], strict=True))
    last = [sum(losses[-20:]) / len(losses[-20:]) for losses in (ours, theirs)]
    failures = []
    if not gap <= 1e-3:
        failures.append(f"the first steps part by {gap:.1e} nats; allowed 1e-3")
    if not abs(last[0] - last[1]) <= 0.005 * abs(last[1]):
        failures.append(f"the last steps have {last[0]:.4f} and {last[1]:.4f} nats; allowed 0.5%")
    return {"steps": steps, "first": ours[0], "last": last[0], "gap": gap, "failures": failures}


def resume(bench: Bench) -> Found:
    """Weights and moments through a file: the next step is equal to the bit on the same device."""
    config = build_config("miniature", **TINY)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        whole = SmallTraining(config, bench.device)
        for number in range(3):
            whole.step(number, 2, 64)
        kept = io.BytesIO()
        torch.save(
            {"model": whole.model.state_dict(), "optimizer": whole.optimizer.state_dict()}, kept
        )
        whole.step(3, 2, 64)
        again = SmallTraining(config, bench.device)
        state = torch.load(io.BytesIO(kept.getvalue()), map_location="cpu", weights_only=True)
        again.model.load_state_dict(state["model"])
        again.optimizer.load_state_dict(state["optimizer"])
        again.step(3, 2, 64)
    finally:
        torch.use_deterministic_algorithms(False)
    pairs = zip(whole.model.named_parameters(), again.model.named_parameters(), strict=True)
    parted = [name for (name, a), (_, b) in pairs if not torch.equal(a, b)]
    return {"failures": [f"not bitwise: {parted[0]} and {len(parted) - 1} more"] if parted else []}
