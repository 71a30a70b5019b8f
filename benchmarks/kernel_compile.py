"""Compile every fused kernel for cards that are not here, and print what a card would have to hold.

    python benchmarks/kernel_compile.py                        (SM 8.0, 8.6, 8.9, 9.0; bf16 and fp32; ten minutes)
    python benchmarks/kernel_compile.py --sm 86 --dtype bfloat16 --kernels outputs conv

The layers run on the meta device at the widths of Nano 2 12B, over a row of 131,072 tokens; each launch is
recorded with its types, sizes and options and compiled as that card's driver would be given it. Exit code 1
where a kernel does not compile, takes more shared memory than the card has, or spills more than
--stack, or where a tile begins at a 32-bit number. No kernel runs.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

os.environ.pop("TRITON_INTERPRET", None)
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from model.layers.scan import LOG2_E, Sizes
from model.layers.triton import conv, conv_kernels, norm, norm_kernels, scan

NANO2_12B = Sizes(heads=128, head_dim=80, groups=8, state=128)
TOKENS, HIDDEN = 131_072, 5120
# Shared memory that one block may ask for (CUDA C programming guide, table of technical specifications).
SHARED = {80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10}


class Launch(NamedTuple):
    """One compiled form of a kernel."""

    name: str
    kernel: Any
    signature: dict[str, str]
    constants: dict[str, Any]
    aligned: tuple[str, ...]
    options: dict[str, int]


class _Recorder:
    """Stands in for a kernel: notes its launches, and runs nothing."""

    def __init__(self, kernel: Any, name: str, found: dict[str, Launch]) -> None:
        self.kernel, self.name, self.found = kernel, name, found

    def __getitem__(self, grid: tuple[int, ...]) -> Callable[..., None]:
        assert 0 < grid[0] < 2**31 and 0 < grid[1] < 2**16, grid

        def launch(*args: Any, **named: Any) -> None:
            options = {
                k: named.pop(k) for k in ("num_warps", "num_stages", "maxnreg") if k in named
            }
            given = dict(zip(self.kernel.arg_names, args, strict=False)) | named
            signature, constants, aligned = {}, {}, []
            marked = {p.name for p in self.kernel.params if p.is_constexpr}
            plain = {p.name for p in self.kernel.params if p.do_not_specialize}
            for name, value in given.items():
                signature[name] = _type(value, name in marked, name in plain)
                if signature[name] == "constexpr":
                    constants[name] = value
                elif (
                    name not in plain
                    and not isinstance(value, float)
                    and (isinstance(value, torch.Tensor) or value % 16 == 0)
                ):
                    aligned.append(name)
            one = Launch(self.name, self.kernel, signature, constants, tuple(aligned), options)
            self.found.setdefault(str(one), one)

        return launch


def _type(value: Any, constant: bool, plain: bool) -> str:
    """As Triton's launcher has it: numbers equal to 1 are compiled in."""
    if constant or (isinstance(value, int) and value == 1 and not plain):
        return "constexpr"
    if isinstance(value, torch.Tensor):
        short = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
        return "*" + short.get(value.dtype, "i32")
    return "fp32" if isinstance(value, float) else "i32" if value < 2**31 else "i64"


@contextmanager
def _recording(found: dict[str, Launch]) -> Iterator[None]:
    homes = [
        (scan, n, n) for n in ("decays", "states_before", "outputs", "grads_after", "gradients")
    ]
    homes += [(m, n, f"{what} {n}") for m, what in ((conv_kernels, "conv"), (norm_kernels, "norm")) for n in ("forward", "backward")]  # fmt: skip
    whole = [(module, name, getattr(module, name)) for module, name, _ in homes]
    for module, name, label in homes:
        setattr(module, name, _Recorder(getattr(module, name), label, found))
    try:
        yield
    finally:
        for module, name, kernel in whole:
            setattr(module, name, kernel)


def launches(dtype: torch.dtype, sizes: Sizes = NANO2_12B, tokens: int = TOKENS) -> list[Launch]:
    """What one Mamba-2 layer and one norm launch, forward and backward, on the meta device."""
    found: dict[str, Launch] = {}
    inner = sizes.heads * sizes.head_dim
    width = inner + 2 * sizes.groups * sizes.state

    def new(*size: int, of: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.empty(*size, dtype=of, device="meta", requires_grad=True)

    with _recording(found):
        place = torch.empty(1, tokens, dtype=torch.int32, device="meta")
        projected = new(1, tokens, inner + width + sizes.heads, of=dtype)
        gate, xbc, raw = projected.split([inner, width, sizes.heads], -1)
        xbc = conv.conv_silu(xbc, new(width, 4), new(width), place)
        dt = raw.float()
        y = scan.scan(xbc, dt, dt * LOG2_E, new(sizes.heads), sizes, place)
        norm.gated_norm(y, gate, new(inner), groups=sizes.groups, eps=1e-5).sum().backward()
        norm.rms_norm(new(1, tokens, HIDDEN, of=dtype), new(HIDDEN), 1e-5).sum().backward()
    return list(found.values())


def compiled(one: Launch, sm: int) -> dict[str, Any]:
    """Registers, shared memory and stack (what does not fit in the registers) of a thread, in bytes."""
    names = one.kernel.arg_names
    attributes = {(names.index(name),): [["tt.divisibility", 16]] for name in one.aligned}
    source = ASTSource(one.kernel, one.signature, one.constants, attributes)
    made = triton.compile(source, target=GPUTarget("cuda", sm, 32), options=one.options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
        said = subprocess.run(
            [tool, "--dump-resource-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    registers, stack = (int(re.search(rf"{key}:(\d+)", said)[1]) for key in ("REG", "STACK"))  # type: ignore[index]
    return {
        "kernel": one.name, "sm": sm, "type": one.signature[names[0]], "warps": one.options["num_warps"],
        "registers": registers, "shared_kib": made.metadata.shared / 1024, "stack": stack,
        "narrow": _narrow(made.asm["ttir"]),
    }  # fmt: skip


def _narrow(ttir: str) -> int:
    """How often a tile begins at a number of 32 bits, which rows beyond 2^31 values would overflow."""
    return len(re.findall(r"tt\.addptr [^\n]*: !tt\.ptr<\w+>, i32", ttir))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sm", nargs="+", type=int, default=list(SHARED), choices=list(SHARED))
    parser.add_argument("--dtype", nargs="+", default=["bfloat16", "float32"])
    parser.add_argument(
        "--kernels", nargs="+", default=[""], help="only names that have one of these in them"
    )
    parser.add_argument(
        "--stack", type=int, default=1536, help="most bytes of a thread outside its registers"
    )
    args = parser.parse_args()
    wrong = 0
    for sm in args.sm:
        for dtype in args.dtype:
            for one in launches(getattr(torch, dtype)):
                if not any(word in one.name for word in args.kernels):
                    continue
                line = compiled(one, sm)
                fits = line["shared_kib"] * 1024 <= SHARED[sm] and line["stack"] <= args.stack
                fits = fits and not line["narrow"]
                wrong += not fits
                print(json.dumps(line | {"fits": fits}), flush=True)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
