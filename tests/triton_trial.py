"""Run by tests in a process of its own, because Triton reads TRITON_INTERPRET as it is imported.

    TRITON_INTERPRET=1 python -m tests.triton_trial NAME [FIRST LAST]

Prints one JSON object.
"""

import json
import math
import os
import sys
from typing import Any

os.environ["TRITON_INTERPRET"] = "1"

import torch
import torch.nn.functional as F

from model.layers import parity
from model.layers.layout import DocumentLayout
from model.layers.scan import LOG2_E, Sizes, chunk_scan
from model.layers.triton import cases, conv, norm, scan
from workbench import kernels

CPU = torch.device("cpu")


def drawn(seed: int) -> dict[str, Any]:
    """A random layout and random sizes: ragged ends, documents of one token, heads that are no power of two."""
    draw = torch.Generator().manual_seed(seed)

    def pick(*values: int) -> int:
        return values[int(torch.randint(len(values), (), generator=draw))]

    groups = pick(1, 1, 2)
    tokens = pick(1, 15, 16, 17, 33)
    breaks = torch.rand(pick(1, 1, 1, 2), tokens, generator=draw) < pick(0, 5, 20, 50, 100) / 100
    return {
        "sizes": Sizes(groups * pick(1, 1, 1, 3), pick(5, 8, 16, 24), groups, pick(3, 16, 20)),
        "layout": DocumentLayout(breaks.cumsum(1)),
        "segment": pick(1, 1 << 28),
        "programs": pick(1, 512),
        "draw": draw,
    }


def scan_layout(seed: int) -> float:
    """Largest error of one layout, over the output and all gradients; raises where anything leaks."""
    it = drawn(seed)
    s, layout, draw = it["sizes"], it["layout"], it["draw"]
    scan.SEGMENT_VALUES, scan._PROGRAMS = it["segment"], it["programs"]
    rows, tokens = layout.batch, layout.length
    xbc = torch.randn(rows, tokens, s.heads * s.head_dim + 2 * s.groups * s.state, generator=draw)
    bias, decay, skip = (torch.randn(s.heads, generator=draw) for _ in range(3))
    raw = torch.randn(rows, tokens, s.heads, generator=draw)
    weights = torch.randn(rows, tokens, s.heads * s.head_dim, generator=draw)
    inputs = [xbc, raw, bias, decay, skip]

    def forward(v: list[torch.Tensor], kernel: bool = True) -> torch.Tensor:
        dt, a = F.softplus(v[1] + v[2] - 1), -torch.exp(v[3])
        if not kernel:
            return chunk_scan(v[0], dt, a, v[4], s, layout=layout)
        return scan.scan(v[0], dt, dt * (a * LOG2_E), v[4], s, layout.places, chunk=16)

    def exact(*given: torch.Tensor) -> list[torch.Tensor]:
        doubles = [v.double().requires_grad_() for v in given[:-1]]
        out = forward(doubles, kernel=False)
        return [out, *torch.autograd.grad((out * given[-1].double()).sum(), doubles)]

    leaves = [v.clone().requires_grad_() for v in inputs]
    y = forward(leaves)
    want = exact(*inputs, weights)
    rounded = exact(*(rounded_otherwise(v, draw) for v in [*inputs, weights]))
    got = [y, *torch.autograd.grad((y * weights).sum(), leaves, retain_graph=True)]
    worst = max(gap_for_its_inputs(g, w, r) for g, w, r in zip(got, want, rounded, strict=True))
    mine = layout.document == int(layout.document.max()) // 2
    grads = torch.autograd.grad((y * weights)[mine].sum(), leaves[:2])
    if any(bool(grad[~mine].any()) for grad in grads):
        raise AssertionError(f"layout {seed}: a gradient reaches other documents")
    with torch.no_grad():
        changed = forward([torch.where(mine[..., None], v + 1, v) for v in inputs[:2]] + inputs[2:])
    if not torch.equal(changed[~mine], y[~mine]):
        raise AssertionError(f"layout {seed}: a document changes others")
    if not bool((changed != y)[mine].any()):
        raise AssertionError(f"layout {seed}: a change changes nothing")
    return worst


ULP = 2.0**-23


def rounded_otherwise(value: torch.Tensor, draw: torch.Generator) -> torch.Tensor:
    """Each number in fp64, up to a last place of fp32 off."""
    return value.double() * (1 + ULP * (2 * torch.rand(value.shape, generator=draw) - 1))


def gap_for_its_inputs(got: torch.Tensor, want: torch.Tensor, rounded: torch.Tensor) -> float:
    """Relative to the largest value, or to what it would be if inputs rounded otherwise moved it by one last place.

    A parameter's gradient is a sum over tokens. Where its terms cancel no fp32 sum is exact to a share of the
    little that remains, torch's own neither; it is to be exact for inputs within their own rounding.
    """
    scale = torch.maximum(want.abs().max(), (rounded - want).abs().max() / ULP)
    return float((got.detach().double() - want).detach().abs().max() / scale.detach())


def largest_gap(got: torch.Tensor, want: torch.Tensor) -> float:
    """Relative to the largest value."""
    return float((got.detach().double() - want.detach()).abs().max() / want.detach().abs().max())


def layouts(first: int, last: int) -> dict[str, Any]:
    """The largest error of layouts first..last."""
    found = [scan_layout(seed) for seed in range(first, last)]
    return {"layouts": len(found), "worst": max(found)}


def kinds() -> dict[str, Any]:
    """Errors and leaks of each kernel in fp32 and bf16, at the sizes of no power of two."""
    layout, found = parity.documents(CPU), {}
    conv._STEPS = 2
    for kind, sizes in (("scan", (24, 20)), ("conv", (4,)), ("conv", (3,)), ("norm", (60,))):
        for dtype in (torch.float32, torch.bfloat16):
            one = cases.case(kind, sizes)
            name = f"{kind} {sizes} {str(dtype).removeprefix('torch.')}"
            found[name] = {
                "errors": parity.errors(one, CPU, dtype, layout),
                "leak": parity.leak(one, CPU, dtype, layout),
            }
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(0)).requires_grad_()
    weight = torch.linspace(0.5, 2, 24).requires_grad_()
    want = F.rms_norm(x, (24,), weight, 1e-5)
    pairs = [(norm.rms_norm(x, weight, 1e-5), want)]
    pairs += zip(*(torch.autograd.grad((v**2).sum(), (x, weight)) for v in pairs[0]), strict=True)
    errors = [largest_gap(g, w.detach()) for g, w in pairs]
    found["rms norm"] = {"errors": errors, "leak": ""}
    return found


def nano() -> dict[str, Any]:
    """The scan at the 9B's and 12B's widths of a head, in the chunks that a card would take."""
    one, layout = cases.case("scan", (80, 128)), parity.documents(CPU)
    return {"errors": parity.errors(one, CPU, torch.float32, layout)}


def far() -> dict[str, Any]:
    """Three rows 2^30 + 8 values apart, so that the last begins beyond 2^31; most of it no page is ever given to."""
    import mmap

    apart, tokens, channels = 2**30 + 8, 5, 16
    memory = mmap.mmap(
        -1, (2 * apart + tokens * channels) * 4, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000
    )
    flat = torch.frombuffer(memory, dtype=torch.float32)
    x = flat.as_strided((3, tokens, channels), (apart, channels, 1))
    x.copy_(torch.randn(3, tokens, channels, generator=torch.Generator().manual_seed(0)))
    weight = torch.randn(channels, 4, generator=torch.Generator().manual_seed(1))
    place = torch.arange(tokens, dtype=torch.int32).expand(3, -1)
    near = conv.conv_silu(x.clone(), weight, None, place)
    s = Sizes(1, 8, 1, 4)
    dt, d = torch.full((3, tokens, 1), 0.5), torch.ones(1)
    ys = [scan.scan(v, dt, -dt, d, s, place, chunk=16) for v in (x, x.clone())]
    return {
        "conv": torch.equal(conv.conv_silu(x, weight, None, place), near),
        "scan": torch.equal(*ys),
        "moved": float(near[2].abs().max()) > 0,
    }


def model() -> dict[str, Any]:
    """A whole hybrid through the kernels: isolation proved, and its gradient against the torch path's."""
    from model.hybrid import build_config, load_model
    from model.layers import fused
    from model.layers.isolation import check_isolation

    config = build_config(
        "miniature", pattern="M*M-", hidden_size=32, intermediate_size=64, mamba_num_heads=2,
        mamba_head_dim=16, n_groups=2, ssm_state_size=16, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, vocab_size=64,
    )  # fmt: skip
    one = load_model(config, seed=0)
    ids = torch.randint(64, (2, 21), generator=torch.Generator().manual_seed(0))
    numbers = torch.tensor([[0] * 9 + [1] * 12, [0] * 20 + [1]])
    asked: list[str] = []
    real = fused._why_not

    def ask(kind: str, *rest: Any) -> str:
        asked.append(kind)
        return real(kind, *rest)

    fused._why_not = ask  # type: ignore[assignment]
    grads = []
    for choice in ("torch", "triton"):
        kernels.choose(choice, "cpu")  # type: ignore[arg-type]
        logits = one(input_ids=ids, seq_idx=numbers, use_cache=False).logits
        one.zero_grad()
        logits.square().mean().backward()
        grads.append(
            {name: p.grad.clone() for name, p in one.named_parameters() if p.grad is not None}
        )
    gaps = [largest_gap(grads[1][n], g) for n, g in grads[0].items()]
    check_isolation(one, "fp32")
    return {"gap": max(gaps), "parameters": len(gaps), "kinds": sorted(set(asked))}


def falls_back() -> dict[str, Any]:
    """A kernel that is wrong here: refused, or left with one line."""
    from model.layers import fused
    from workbench.errors import UserError

    whole = conv.conv_silu
    conv.conv_silu = lambda *args: whole(*args) * (1 + 1e-3)
    kernels.choose("required", "cpu")
    x = torch.ones(1, 4, 8)
    try:
        fused.serves("conv", x, 4)
        said = ""
    except UserError as error:
        said = str(error)
    kernels._STRICT = ()  # as `auto` has it on a card
    fused._why_not.cache_clear()
    return {
        "said": said,
        "serves": fused.serves("conv", x, 4),
        "wide": fused.serves("norm", x, 99999),
    }


def quick() -> dict[str, Any]:
    """What takes seconds, in one process."""
    return {"layouts": layouts(0, 2), "far": far(), "falls_back": falls_back()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    assert math.isclose(LOG2_E, 1 / math.log(2))
    print(json.dumps(globals()[sys.argv[1]](*map(int, sys.argv[2:]))))
