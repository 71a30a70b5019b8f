"""Prove on one card, in at most eight minutes, what the tests prove without one.

    python scripts/gpu_check.py                       (the card)
    python scripts/gpu_check.py --device cpu          (everything but the timings, at tiny sizes)
    python scripts/gpu_check.py --only leak loss --out check.jsonl

Thirteen sections, each under a time limit of its own: a JSON line each, a table last. docs/gpu.md says what
it proves. Needs torch, transformers, triton, pydantic and jaxtyping. Exit codes: 0 all passed, 1 not.
"""

import argparse
import importlib
import json
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

try:
    from workbench.command import command
    from workbench.errors import UserError, unknown_name
except ModuleNotFoundError:
    import wrong_python  # noqa: F401 - says so in one line, and ends

    raise


class CheckSection(NamedTuple):
    """One proof. limit_s: when it is ended; the limits add up to eight minutes. home: the module that has a
    function of its name."""

    name: str
    limit_s: int
    proves: str
    home: str = "gpu_sections"

    def run(self, bench: Any) -> dict[str, Any]:
        """Its figures, and its `failures`. A module that lacks a package ends its own sections alone."""
        found: dict[str, Any] = getattr(importlib.import_module(self.home), self.name)(bench)
        return found


_SPEED, _ADAPTERS = "gpu_speed", "gpu_adapters"
SECTIONS = (
    CheckSection("card", 15, "the card, its memory, the paths that are live, Triton"),
    CheckSection("parity", 55, "scan, convolution, attention, norm, loss against fp64, and back"),
    CheckSection("fused", 50, "Triton kernels against torch: errors, leaks, speed", _SPEED),
    CheckSection("leak", 55, "no bit and no gradient crosses documents, by any path"),
    CheckSection("long", 20, "rows beyond 32-bit offsets equal their documents alone"),
    CheckSection("curve", 40, "200 steps of training follow the CPU's"),
    CheckSection("step", 80, "speed beside transformers' own, memory beside the plan's", _SPEED),
    CheckSection(
        "loss", 30, "the loss over 131,072 words costs little more than its products", _SPEED
    ),
    CheckSection("fp8", 40, "FP8 products against their emulation, steps against bf16", _SPEED),
    CheckSection("grpo", 35, "a policy's gradient against the CPU's, and its memory", _ADAPTERS),
    CheckSection("lora", 25, "adapters on bf16 and 4 bits, AdamW in 8, slept weights", _ADAPTERS),
    CheckSection("profile", 20, "where a step's time goes, and how long the card waits", _SPEED),
    CheckSection("resume", 15, "a step after loading equals the step without"),
)


class Late(Exception):
    """A section took longer than its limit."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="some sections")
    parser.add_argument(
        "--out",
        metavar="FILE",
        type=Path,
        help="the JSON lines, in a file as well, and a trace beside it",
    )


def run(args: argparse.Namespace) -> int:
    """Every section; the table; 0 where all passed."""
    wanted = chosen(args.only)
    import torch

    if args.device == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "no card is to be seen here; run scripts/doctor.py to see why, or check the same at tiny "
            "sizes with --device cpu"
        )
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    from gpu_bench import Bench

    bench = Bench(torch.device(args.device), args.out.parent if args.out else None)
    lines = []
    for section in wanted:
        line = examine(section, bench)
        lines.append(line)
        print(json.dumps(line), flush=True)
        if args.out is not None:
            args.out.write_text("".join(json.dumps(one) + "\n" for one in lines), encoding="utf-8")
    print("\n".join(table(lines)))
    return 0 if all(line["passed"] for line in lines) else 1


def chosen(names: list[str] | None) -> list[CheckSection]:
    """The sections of these names, all without. Raises: UserError for another name."""
    known = {section.name: section for section in SECTIONS}
    for name in names or ():
        if name not in known:
            raise unknown_name("section", name, known)
    return [section for section in SECTIONS if names is None or section.name in names]


def examine(section: CheckSection, bench: Any) -> dict[str, Any]:
    """The section's line: its figures, whether it passed, and why not. Never raises."""
    started = time.monotonic()
    limit_s = section.limit_s * (1 if bench.on_card else 5)  # a CPU's times prove nothing
    found: dict[str, Any] = {}
    try:
        with limited(limit_s):
            found = section.run(bench)
        failures = found.pop("failures")
    except Late:
        failures = [f"not done in {limit_s} s"]
    except Exception as error:  # noqa: BLE001 - one broken section must not hide the others
        traceback.print_exc(file=sys.stderr)
        failures = [" ".join(f"{type(error).__name__}: {error}".split())[:300]]
    bench.clear()
    seconds = round(time.monotonic() - started, 1)
    return {
        "section": section.name, "passed": not failures, "failures": failures, "seconds": seconds,
        **found,
    }  # fmt: skip


@contextmanager
def limited(seconds: int) -> Iterator[None]:
    """Raise Late inside the block after so many seconds."""

    def late(number: int, frame: FrameType | None) -> None:
        raise Late

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def table(lines: list[dict[str, Any]]) -> list[str]:
    """What passed, in how long, and what failed."""
    about = {section.name: section.proves for section in SECTIONS}
    out = [""]
    for line in lines:
        mark = "ok" if line["passed"] else "!!"
        why = "" if line["passed"] else f"  -> {'; '.join(line['failures'][:3])}"
        out.append(
            f"{mark} {line['section']:8} {line['seconds']:6.1f} s  {about[line['section']]}{why}"
        )
    broken = [line["section"] for line in lines if not line["passed"]]
    total = sum(line["seconds"] for line in lines)
    end = f"failed: {', '.join(broken)}" if broken else "all passed"
    return [*out, f"{end}, in {total:.0f} s"]


if __name__ == "__main__":
    sys.exit(command(run, arguments, __doc__))
