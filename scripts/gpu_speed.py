"""Sections of scripts/gpu_check.py about speed and memory, and about the fused kernels."""

import copy
import os
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from gpu_bench import TINY, Bench, Found, SmallTraining
from torch import nn

from model import cost
from model.fp8 import products
from model.fp8.blocks import TOKENS, WEIGHTS, quantise
from model.fp8.config import Fp8Config
from model.fp8.linear import BlockLinear, scales_are_a_tokens_own
from model.hybrid import build_config
from model.loss import linear_cross_entropy
from model.presets import HybridShape, shape
from workbench.load import TrainingLoad


def gemm_peak(bench: Bench) -> float:
    """FLOP/s of a large product in this process, bf16 on a card and fp32 on a CPU."""
    n = bench.pick(8192, 256)
    a, b = (
        torch.randn(n, n, device=bench.device, dtype=bench.pick(torch.bfloat16, torch.float32))
        for _ in range(2)
    )
    return 2 * n**3 / bench.seconds(lambda: a @ b, 10)


def _step_models(bench: Bench) -> Iterator[tuple[str, HybridShape, int]]:
    if not bench.on_card:
        yield "tiny", HybridShape(**TINY), 256  # type: ignore[arg-type]
        return
    yield "12B's widths, 6 layers", shape("nano2-12b", pattern="M-M*M-"), 8192
    small = shape(
        "miniature",
        pattern="M-M-M*-M-M-",
        hidden_size=1024,
        intermediate_size=4096,
        vocab_size=32000,
    )
    yield "small", small, 8192
    yield "small, long rows", small, 65536


def step(bench: Bench) -> Found:
    """SmallTraining steps under bf16 autocast: speed, share of the GEMM peak, memory against the plan."""
    peak, rows, failures = gemm_peak(bench), list[Found](), list[str]()
    for name, s, tokens in _step_models(bench):
        load = TrainingLoad(
            tokens=tokens, row_tokens=tokens, document_tokens=tokens // 4, precision="bf16"
        )
        planned = cost.training_memory(s, load).device_bytes
        if bench.on_card and planned > 0.9 * bench.memory:
            rows.append(
                {
                    "model": name,
                    "tokens": tokens,
                    "planned_gib": planned / 2**30,
                    "left_out": "memory",
                }
            )
            continue
        bench.clear()
        training = SmallTraining(build_config(s), bench.device)
        seconds = bench.seconds(
            partial(training.step, 1, 1, tokens, autocast=True), bench.pick(3, 1)
        )
        used = bench.peak()
        flops = 3 * tokens * cost.forward_flops(s, tokens // 4)
        rows.append({
            "model": name, "tokens": tokens, "tokens_per_s": tokens / seconds,
            "of_gemm_peak": flops / seconds / peak, "peak_gib": used / 2**30, "planned_gib": planned / 2**30,
        })  # fmt: skip
        if bench.on_card and abs(used / planned - 1) > 0.1:
            failures.append(f"{name}: {used / 2**30:.1f} GiB used, {planned / 2**30:.1f} planned")
        del training
    return {"gemm_tflops": peak / 1e12, "steps": rows, "failures": failures}


def loss(bench: Bench) -> Found:
    """The loss of an output layer of 131,072 words against its three products alone."""
    tokens, width, vocabulary = bench.pick((8192, 5120, 131072), (512, 64, 4096))
    dtype = bench.pick(torch.bfloat16, torch.float32)
    hidden = torch.randn(tokens, width, device=bench.device, dtype=dtype, requires_grad=True)
    head = (torch.randn(vocabulary, width, device=bench.device, dtype=dtype) / 64).requires_grad_()
    labels = torch.randint(vocabulary, (tokens,), device=bench.device)
    whole = bench.seconds(lambda: linear_cross_entropy(hidden, head, labels).backward(), 3)
    logits = torch.empty(
        min(tokens, 2**29 // vocabulary), vocabulary, device=bench.device, dtype=dtype
    )
    part, share = hidden.detach()[: len(logits)], tokens / len(logits)

    def products() -> None:
        torch.mm(part, head.detach().T, out=logits)
        torch.mm(logits, head.detach())
        torch.mm(logits.T, part)

    three = bench.seconds(products, 3) * share
    ratio = whole / three
    failures = (
        [f"{ratio:.2f} times its products; allowed 1.3"] if bench.on_card and ratio > 1.3 else []
    )
    return {
        "ms": 1e3 * whole,
        "of_products": ratio,
        "peak_gib": bench.peak() / 2**30,
        "failures": failures,
    }


def fused(bench: Bench) -> Found:
    """Each Triton kernel against torch's operations: errors, leaks, and on a card the time of both."""
    if not (bench.on_card or os.environ.get("TRITON_INTERPRET") == "1"):
        return {"kernels": "not tried: no card, and TRITON_INTERPRET is not 1", "failures": []}
    from model.layers import parity
    from model.layers.triton import cases

    widths = bench.pick(
        (
            ("scan", (80, 128)),
            ("scan", (64, 128)),
            ("conv", (4,)),
            ("norm", (1280,)),
            ("norm", (5120,)),
        ),
        (("scan", (8, 16)), ("conv", (4,)), ("norm", (24,))),
    )
    found, failures, layout = dict[str, Found](), list[str](), parity.documents(bench.device)
    for kind, sizes in widths:
        for dtype in (torch.float32, torch.bfloat16):
            name = f"{kind} {list(sizes)} {str(dtype).removeprefix('torch.')}"
            one = cases.case(kind, sizes)
            error = max(parity.errors(one, bench.device, dtype, layout))
            found[name] = {"error": error}
            if not error <= parity.LIMIT[dtype]:
                failures.append(f"{name} is off by {error:.1e}")
            if leak := parity.leak(one, bench.device, dtype, layout):
                failures.append(f"{name} {leak}")
            if bench.on_card:
                found[name] |= _times(bench, cases.case(kind, sizes, 8192), dtype)
    return {"kernels": found, "failures": failures}


def _times(bench: Bench, one: Any, dtype: torch.dtype) -> Found:
    """Milliseconds of a pass forward and backward over 8,192 tokens, by the kernel and by torch."""
    from model.layers.layout import DocumentLayout
    from workbench import kernels

    layout = DocumentLayout((torch.arange(8192, device=bench.device) // 1000)[None])
    leaves = [v.to(device=bench.device, dtype=dtype).requires_grad_() for v in one.inputs]
    before = kernels.chosen()
    kernels.choose("torch", bench.device.type)  # which the kernel's own call does not ask
    try:
        ms = {
            name: 1e3 * bench.seconds(lambda run=run: run(leaves, layout).sum().backward(), 5)
            for name, run in (("ms", one.kernel), ("torch_ms", one.torch))
        }
    finally:
        kernels.choose(before, bench.device.type)
    return ms | {"speedup": ms["torch_ms"] / ms["ms"]}


def fp8(bench: Bench) -> Found:
    """Products in FP8: the emulation against fp64, a token's scales, and on Hopper the card against the
    emulation and a step's time against bf16."""
    draw = torch.Generator().manual_seed(5)
    x, w = (torch.randn(256, 256, generator=draw) for _ in range(2))
    emulated = products.emulated(quantise(x, TOKENS), quantise(w, WEIGHTS)).double()
    exact = x.double() @ w.double().T
    error = float((emulated - exact).norm() / exact.norm())
    failures = [] if error < 0.06 else [f"emulation is off by {error:.1%}"]
    found: Found = {"emulation_error": error}
    refusal = products.why_not(bench.device)
    if refusal is None and not scales_are_a_tokens_own(Fp8Config(), bench.device):
        failures.append("tokens share scales")
    if not bench.on_card or refusal is not None:
        left = refusal or "a CPU has no products in FP8 to compare with"
        return found | {"left_out": left, "failures": failures}
    gaps = products.gaps(bench.device)
    failures += [
        f"{name} differs from the emulation by {gap:.1e}, allowed {allowed:.0e}"
        for name, (gap, allowed) in gaps.items()
        if not gap <= allowed
    ]
    found["card_gaps"] = {name: gap for name, (gap, _) in gaps.items()}
    return found | {"step_of_bf16": _fp8_step(bench), "failures": failures}


def _fp8_step(bench: Bench) -> float:
    """A step in FP8 by the time of the same one in bf16: a feed-forward layer of the 12B on 8,192 tokens."""
    seconds = []
    x = torch.randn(1, 8192, 5120, device=bench.device, dtype=torch.bfloat16, requires_grad=True)
    for kind in (nn.Linear, BlockLinear):
        layers = [kind(5120, 20480, bias=False), kind(20480, 5120, bias=False)]
        for layer in layers:
            layer.to(bench.device).fp8 = Fp8Config()  # type: ignore[assignment]
        up, down = layers

        def step(up: Any = up, down: Any = down) -> None:
            with torch.autocast("cuda", dtype=torch.bfloat16):
                y = down(torch.relu(up(x)).square())
            y.sum().backward()

        step()
        seconds.append(bench.seconds(step, 5))
    return seconds[1] / seconds[0]


def profile(bench: Bench) -> Found:
    """The fifteen costliest kernels of a step, and how many there are."""
    from torch.profiler import ProfilerActivity

    _, s, tokens = next(iter(_step_models(bench)))
    small = (
        copy.deepcopy(s)
        if not bench.on_card
        else shape("nano2-12b", pattern="M-*", vocab_size=32768)
    )
    training = SmallTraining(build_config(small), bench.device)
    training.step(0, 1, tokens, autocast=True)
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if bench.on_card else [])]
    with torch.profiler.profile(activities=kinds) as seen:
        training.step(1, 1, tokens, autocast=True)
        bench.wait()
    key = "self_device_time_total" if bench.on_card else "self_cpu_time_total"
    events = sorted(seen.key_averages(), key=lambda e: -getattr(e, key))
    top = [{"name": e.key[:80], "ms": getattr(e, key) / 1e3, "calls": e.count} for e in events[:15]]
    return {
        "top": top,
        "calls": sum(e.count for e in events),
        "failures": [] if top else ["nothing seen"],
    }
