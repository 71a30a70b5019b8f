"""Sections of scripts/gpu_check.py about what recipes for one card use: policy updates, adapters, 4 and 8 bits."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, Literal

import torch
import torch.nn.functional as F
from gpu_bench import TINY, Bench, Found, SmallTraining
from torch import nn

from engine.protocol import Completion
from engine.sleep import fingerprints
from model.hybrid import build_config, load_model
from model.layers.isolation import check_isolation
from model.logprobs import Truncation
from model.lora import add_adapters, quantised_modules
from model.lora_config import LoraConfig
from model.nf4 import quantise
from rl.loss import LossSettings
from rl.sample import Rollout
from rl.update import accumulate, pack, totals_of

# To the CPU's gradient in fp32: its own sums, and what bf16 rounds.
_COSINE = {"fp32": 0.9999, "bf16": 0.99}
_WITHOUT = "not tried: bitsandbytes is not installed (requirements/4bit.txt)"


def grpo(bench: Bench) -> Found:
    """The gradient of one policy update on scripted rollouts, in fp32 and bf16, against the CPU's in fp32; the
    memory of a microbatch of 16,384 tokens over 131,072 words."""
    batches = _batches(bench, bench.pick(32, 6), bench.pick(512, 24))
    want = _gradient(torch.device("cpu"), batches, "fp32")
    found, failures = dict[str, Any](), list[str]()
    for precision in ("fp32", "bf16"):
        got = _gradient(bench.device, batches, precision)  # type: ignore[arg-type]
        found[precision] = float(F.cosine_similarity(got, want, dim=0))
        if not found[precision] >= _COSINE[precision]:
            failures.append(
                f"{precision}: cosine {found[precision]:.6f} to the CPU's gradient; allowed "
                f"{_COSINE[precision]}"
            )
    peak, whole = _microbatch(bench)
    if bench.on_card and peak > 2 * whole:
        failures.append(f"a microbatch takes {peak / 2**30:.1f} GiB: logits are held whole, twice")
    return {
        "tokens": sum(len(b.input_ids) for b in batches), "cosine": found,
        "microbatch_gib": peak / 2**30, "whole_logits_gib": whole / 2**30, "failures": failures,
    }  # fmt: skip


def _batches(bench: Bench, rollouts: int, size: int, vocabulary: int = 256) -> list[Any]:
    draw = torch.Generator().manual_seed(6)
    made = []
    for number in range(rollouts):
        prompt, reply = (
            torch.randint(vocabulary, (size,), generator=draw).tolist() for _ in range(2)
        )
        done = Completion(
            token_ids=reply, logprobs=[-5.5] * size, text="", finish_reason="stop", forced=[False] * size,
            versions=[1] * size,
        )  # fmt: skip
        made.append(Rollout(prompt, done, 1.0, (-1.0) ** number, "ok"))
    return list(pack(made, bench.pick(16384, 128)))


def _gradient(
    device: torch.device, batches: list[Any], precision: Literal["fp32", "bf16"], **changes: Any
) -> torch.Tensor:
    """Of one update of a tiny model there; kept on the CPU."""
    config = build_config("miniature", **(TINY | changes))
    model = load_model(config, device=str(device), seed=0).train()
    accumulate(
        model, batches, LossSettings(), Truncation(), totals=totals_of(batches), version=1,
        precision=precision,
    )  # fmt: skip
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return torch.cat([grad.double().cpu().flatten() for grad in grads])


def _microbatch(bench: Bench) -> tuple[int, int]:
    """Bytes at the peak of an update of one microbatch (0 on a CPU), and of its replies' logits in fp32."""
    vocabulary = bench.pick(131072, 256)
    batches = _batches(bench, bench.pick(16, 2), bench.pick(512, 24), vocabulary)[:1]
    bench.clear()
    _gradient(bench.device, batches, "bf16", vocab_size=vocabulary)
    return bench.peak(), sum(len(b.input_ids) // 2 for b in batches) * vocabulary * 4


def lora(bench: Bench) -> Found:
    """Adapters learn on a frozen base in bf16 and in 4 bits, isolated; AdamW in 8 bits follows AdamW; weights
    that were on the host have their bits."""
    found: Found = {}
    failures: list[str] = []
    for base in ("bfloat16", "nf4"):
        found[base] = one = _on_base(bench, base)
        failures += [f"{base}: {problem}" for problem in one.pop("problems", [])]
    found["adamw_8bit"] = eight = _in_8_bits(bench)
    failures += eight.pop("problems", [])
    if problem := _slept(bench):
        failures.append(problem)
    return found | {"failures": failures}


def _on_base(bench: Bench, base: str) -> Found:
    """Some steps of adapters: the loss falls, and nothing but adapters moves."""
    if base == "nf4" and find_spec("bitsandbytes") is None:
        return {"left_out": _WITHOUT}
    config = build_config("miniature", **TINY)
    model: Any = load_model(config, dtype="bfloat16", device="cpu", seed=0)
    problems = []
    if base == "nf4":
        before = {name: model.get_submodule(name).weight for name in quantised_modules(model)}
        quantise(model, before, bench.device)
        # NormalFloat's own error of normal numbers is 9%.
        error = max(_distance(model.get_submodule(n).weight, w) for n, w in before.items())
        if not error <= 0.12:
            problems.append(f"a weight is off by {error:.0%} in 4 bits; allowed 12%")
    model.to(bench.device)
    check_isolation(model, "bf16")
    add_adapters(model, LoraConfig(rank=8, alpha=16))
    check_isolation(model, "bf16")
    frozen = _frozen(model)
    training = SmallTraining(config, bench.device, lr=1e-2, model=model)
    losses = [training.step(0, 2, 64, autocast=True) for _ in range(bench.pick(20, 3))]
    if _frozen(model) != frozen:
        problems.append("a frozen weight moved")
    if not losses[-1] < losses[0]:
        problems.append(f"the loss went from {losses[0]:.4f} to {losses[-1]:.4f}")
    return {"first": losses[0], "last": losses[-1], "problems": problems}


def _frozen(model: nn.Module) -> dict[str, int]:
    named = dict(model.named_parameters())
    return {
        name: mark for name, mark in fingerprints(model).items() if not named[name].requires_grad
    }


def _distance(got: torch.Tensor, want: torch.Tensor) -> float:
    gap = got.double().cpu() - want.double().cpu()
    return float(gap.norm() / want.double().norm())


def _in_8_bits(bench: Bench) -> Found:
    """The same steps by AdamW with its moments in 8 bits: the losses at the end within 5%."""
    if find_spec("bitsandbytes") is None:
        return {"left_out": _WITHOUT}
    from bitsandbytes.optim import AdamW8bit

    adams: dict[str, Callable[..., Any]] = {"adamw": torch.optim.AdamW, "adamw_8bit": AdamW8bit}
    # bitsandbytes keeps moments of fewer than 4,096 values in fp32.
    config = build_config("miniature", **TINY)
    last = {}
    for name, adam in adams.items():
        training = SmallTraining(config, bench.device, adam=adam)
        last[name] = [training.step(i, 2, 64) for i in range(bench.pick(50, 3))][-1]
    gap = abs(last["adamw_8bit"] / last["adamw"] - 1)
    problems = [] if gap <= 0.05 else [f"AdamW in 8 bits ends {gap:.1%} from AdamW; allowed 5%"]
    return {**last, "problems": problems}


def _slept(bench: Bench) -> str:
    """Weights to the host and back, as an engine's do while it sleeps; what is wrong, or empty."""
    model = load_model(build_config("miniature", **TINY), device=str(bench.device), seed=0)
    before = fingerprints(model)
    if fingerprints(model.cpu().to(bench.device)) != before:
        return "weights that were on the host come back with other bits"
    with torch.no_grad():
        next(model.parameters()).view(torch.int32)[0] ^= 1
    return "a flipped bit is not seen" if fingerprints(model) == before else ""
