"""The check of a card, on a CPU at tiny sizes: what it passes, and that it fails what is broken."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch

ROOT = __file__.rpartition("/tests/")[0]


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The modules of scripts/, imported as the script itself does."""
    monkeypatch.syspath_prepend(f"{ROOT}/scripts")
    from types import SimpleNamespace

    import gpu_bench
    import gpu_check
    import gpu_sections
    import gpu_speed

    bench = gpu_bench.Bench(torch.device("cpu"))
    yield SimpleNamespace(check=gpu_check, exact=gpu_sections, speed=gpu_speed, bench=bench)
    for name in ("gpu_bench", "gpu_check", "gpu_sections", "gpu_speed"):
        sys.modules.pop(name, None)


def examine(check: Any, name: str, limit_s: int = 60) -> dict[str, Any]:
    home = check.speed if hasattr(check.speed, name) else check.exact
    section = check.check.CheckSection(name, limit_s, "")
    line: dict[str, Any] = check.check.examine(section, getattr(home, name), check.bench)
    return line


def test_sections_pass_here_and_their_limits_fit_eight_minutes_and_a_half(check: Any) -> None:
    names = [section.name for section in check.check.SECTIONS]
    assert len(names) == 12
    assert sum(section.limit_s for section in check.check.SECTIONS) <= 540
    for name in ("card", "parity", "fused", "long", "fp8", "grpo", "resume"):
        line = examine(check, name)
        assert line["passed"], line
    assert examine(check, "grpo")["cosine"] == pytest.approx(1, abs=1e-9)
    curve = examine(check, "curve")
    assert curve["passed"] and curve["gap"] == 0  # the same device twice


def test_a_wrong_scan_and_a_leak_fail(check: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from model.layers import mixer

    whole = check.exact.chunk_scan

    def rough(*args: Any, **kwargs: Any) -> Any:
        """TF32's ten bits, without a word."""
        out = whole(*args, **kwargs)
        return out * (1 + 2e-4) if out.dtype == torch.float32 else out

    monkeypatch.setattr(check.exact, "chunk_scan", rough)
    line = examine(check, "parity")
    assert not line["passed"]
    assert "scan in torch.float32 is off by 2" in line["failures"][0]

    def blind(*args: Any, layout: Any = None, **kwargs: Any) -> Any:
        return whole(*args, **kwargs)

    monkeypatch.setattr(mixer, "chunk_scan", blind)
    line = examine(check, "leak")
    assert line["failures"][0].startswith("IsolationError")


def test_a_late_section_and_a_broken_one_hide_no_other(
    check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(check.bench), "on_card", True)  # a CPU has five times as long
    monkeypatch.setattr(type(check.bench), "clear", lambda bench: None)
    monkeypatch.setattr(check.exact, "long", lambda bench: time.sleep(60))
    assert examine(check, "long", limit_s=1)["failures"] == ["not done in 1 s"]
    monkeypatch.setattr(check.exact, "long", lambda bench: 1 / 0)
    assert examine(check, "long")["failures"] == ["ZeroDivisionError: division by zero"]


def test_the_command_says_what_failed_and_by_its_exit_code() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    words = [sys.executable, "scripts/gpu_check.py", "--device", "cpu", "--only", "card", "fp8"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"triton": "interpreter"' in done.stdout
    assert done.stdout.splitlines()[-1].startswith("all passed, in ")
    wrong = subprocess.run([*words[:4], "--only", "lean"], cwd=ROOT, capture_output=True, text=True)
    assert wrong.returncode == 2
    assert "leak" in wrong.stderr


@pytest.mark.stress
def test_the_fused_kernels_pass_in_the_interpreter() -> None:
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    words = [sys.executable, "scripts/gpu_check.py", "--device", "cpu", "--only", "fused"]
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"scan [8, 16] bfloat16": {"error": ' in done.stdout
