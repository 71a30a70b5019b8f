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
from model.fp8.linear import BlockLinear, convert, scales_are_a_tokens_own
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
    yield "small, long rows", small, 131072


def step(bench: Bench) -> Found:
    """SmallTraining steps under bf16 autocast: speed, beside transformers' own, share of the GEMM peak, memory
    against the plan."""
    peak, rows, failures = gemm_peak(bench), list[Found](), list[str]()
    for name, s, tokens in _step_models(bench):
        load = TrainingLoad(
            tokens=tokens, row_tokens=tokens, document_tokens=tokens // 4, precision="bf16"
        )
        planned = cost.training_memory(
            s, load, card=bench.memory if bench.on_card else None
        ).device_bytes
        row: Found = {"model": name, "tokens": tokens, "planned_gib": planned / 2**30}
        rows.append(row)
        if bench.on_card and planned > 0.9 * bench.memory:
            row["left_out"] = "memory"
            continue
        bench.clear()
        training = SmallTraining(build_config(s), bench.device)
        seconds = bench.seconds(
            partial(training.step, 1, 1, tokens, autocast=True), bench.pick(3, 1)
        )
        used = bench.peak()
        del training
        flops = 3 * tokens * cost.forward_flops(s, tokens // 4)
        row |= {
            "tokens_per_s": tokens / seconds, "of_gemm_peak": flops / seconds / peak,
            "peak_gib": used / 2**30,
        }  # fmt: skip
        if bench.on_card and abs(used / planned - 1) > 0.1:
            failures.append(f"{name}: {used / 2**30:.1f} GiB used, {planned / 2**30:.1f} planned")
        if name in ("small", "tiny"):
            row |= _transformers(bench, s, tokens, seconds)
            if bench.on_card and row.get("of_transformers", 5) < row["asked"]:
                failures.append(
                    f"{name}: {row['of_transformers']:.2f} times transformers' speed; asked {row['asked']}"
                )
    return {"gemm_tflops": peak / 1e12, "steps": rows, "failures": failures}


def _transformers(bench: Bench, s: HybridShape, tokens: int, ours_s: float) -> Found:
    """The same step by transformers' own model, for which the row is one document."""
    from transformers import NemotronHForCausalLM

    from model.layers.install import NO_TIME_STEP_CLAMP
    from model.layers.kernels import mamba_ssm_imports

    path, asked = ("mamba-ssm", 1.0) if mamba_ssm_imports() else ("torch", 5.0)
    config = build_config(s)
    config.time_step_min = NO_TIME_STEP_CLAMP
    ids = torch.randint(s.vocab_size, (1, tokens), device=bench.device)
    found: Found = {"transformers": path, "asked": asked}
    bench.clear()
    try:
        model: Any = NemotronHForCausalLM(config).train().to(bench.device)
        optimizer = torch.optim.AdamW(model.parameters())

        def theirs() -> None:
            with torch.autocast(bench.device.type, dtype=torch.bfloat16):
                loss = model(input_ids=ids, labels=ids, use_cache=False).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        found["of_transformers"] = bench.seconds(theirs, 1) / ours_s
    except torch.OutOfMemoryError:
        found["transformers"] = f"{path}: out of memory"
    return found


def loss(bench: Bench) -> Found:
    """The loss of an output layer of 131,072 words against its three products alone, over short rows and long."""
    found: Found = {"rows": [], "failures": []}
    for tokens in bench.pick((8192, 131072), (512,)):
        bench.clear()
        row = _loss(bench, tokens)
        found["rows"].append(row)
        if bench.on_card and row["of_products"] > 1.3:
            found["failures"].append(
                f"{tokens:,} rows: {row['of_products']:.2f} times its products; allowed 1.3"
            )
    return found


def _loss(bench: Bench, tokens: int) -> Found:
    width, vocabulary = bench.pick((5120, 131072), (64, 4096))
    dtype = bench.pick(torch.bfloat16, torch.float32)
    hidden = torch.randn(tokens, width, device=bench.device, dtype=dtype, requires_grad=True)
    head = (torch.randn(vocabulary, width, device=bench.device, dtype=dtype) / 64).requires_grad_()
    labels = torch.randint(vocabulary, (tokens,), device=bench.device)
    whole = bench.seconds(lambda: linear_cross_entropy(hidden, head, labels).backward(), 2)
    logits = torch.empty(
        min(tokens, 2**29 // vocabulary), vocabulary, device=bench.device, dtype=dtype
    )
    part, share = hidden.detach()[: len(logits)], tokens / len(logits)

    def products() -> None:
        torch.mm(part, head.detach().T, out=logits)
        torch.mm(logits, head.detach())
        torch.mm(logits.T, part)

    three = bench.seconds(products, 2) * share
    return {
        "tokens": tokens,
        "ms": 1e3 * whole,
        "of_products": whole / three,
        "peak_gib": bench.peak() / 2**30,
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

    layout = DocumentLayout((torch.arange(8192, device=bench.device) // 1000)[None])
    leaves = [v.to(device=bench.device, dtype=dtype).requires_grad_() for v in one.inputs]
    with bench.path("torch"):  # which the kernel's own call does not ask
        ms = {
            name: 1e3 * bench.seconds(lambda run=run: run(leaves, layout).sum().backward(), 5)
            for name, run in (("ms", one.kernel), ("torch_ms", one.torch))
        }
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
    if refusal is None:
        found["last_losses"] = losses = _fp8_losses(bench)
        gap = abs(losses["fp8"] / losses["plain"] - 1)
        if not gap <= 0.03:
            failures.append(f"training in FP8 ends {gap:.1%} from the same in bf16; allowed 3%")
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


def _fp8_losses(bench: Bench) -> dict[str, float]:
    """The mean loss of the last fifth of 100 steps, with projections in FP8 and without."""
    config, steps, found = build_config("miniature", **TINY), bench.pick(100, 5), {}
    for name in ("plain", "fp8"):
        training = SmallTraining(config, bench.device)
        if name == "fp8":
            convert(training.model, Fp8Config(), bench.device)
        losses = [training.step(i, 2, 128, autocast=bench.on_card) for i in range(steps)]
        last = losses[-max(steps // 5, 1) :]
        found[name] = sum(last) / len(last)
    return found


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
    """The fifteen costliest kernels of a step, how many there are, how much of the time the card computes, and a
    trace beside the report."""
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
    found: Found = {"top": top, "calls": sum(e.count for e in events)}
    if bench.on_card:
        cuda = torch.autograd.DeviceType.CUDA
        spans = [e.time_range for e in seen.events() or () if e.device_type == cuda]
        found["busy"] = busy([(span.start, span.end) for span in spans])
    if bench.folder is not None:
        seen.export_chrome_trace(str(bench.folder / "gpu_check_trace.json"))
    return found | {"failures": [] if top else ["nothing seen"]}


def busy(spans: list[tuple[float, float]]) -> float:
    """Share of the time from the first kernel to the last in which some kernel runs: the rest are gaps, in
    which the card waits for a launch.

    >>> busy([(0, 4), (2, 5), (8, 10)])
    0.7
    """
    worked, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        worked += max(end - max(start, until), 0)
        until = max(until, end)
    return worked / (until - min(start for start, _ in spans)) if spans else 0.0
