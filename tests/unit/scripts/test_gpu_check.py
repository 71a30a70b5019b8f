"""The check of a card, on a CPU at tiny sizes: what it passes, and that it fails what is broken."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = __file__.rpartition("/tests/")[0]
SECTIONS = [
    "card", "parity", "fused", "leak", "long", "curve", "step", "loss", "fp8", "grpo", "lora", "profile",
    "resume",
]  # fmt: skip


@pytest.fixture
def check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """The modules of scripts/, imported as the script itself does."""
    monkeypatch.syspath_prepend(f"{ROOT}/scripts")
    from types import SimpleNamespace

    import gpu_adapters
    import gpu_bench
    import gpu_check
    import gpu_sections
    import gpu_speed

    bench = gpu_bench.Bench(torch.device("cpu"), tmp_path)
    yield SimpleNamespace(
        check=gpu_check, exact=gpu_sections, speed=gpu_speed, adapters=gpu_adapters, bench=bench
    )
    for name in ("gpu_adapters", "gpu_bench", "gpu_check", "gpu_sections", "gpu_speed"):
        sys.modules.pop(name, None)


def examine(check: Any, name: str, limit_s: int = 60) -> dict[str, Any]:
    section = next(one for one in check.check.SECTIONS if one.name == name)
    found = check.check.examine(section._replace(limit_s=limit_s), check.bench)
    line: dict[str, Any] = found
    return line


def test_the_limits_fit_eight_minutes(check: Any) -> None:
    assert [section.name for section in check.check.SECTIONS] == SECTIONS
    assert sum(section.limit_s for section in check.check.SECTIONS) <= 480


@pytest.mark.parametrize("name", SECTIONS)
def test_each_section_passes_here(check: Any, name: str, tmp_path: Path) -> None:
    line = examine(check, name)
    assert line["passed"], line
    if name == "curve":
        assert line["gap"] == 0  # the same device twice
    if name == "grpo":
        assert line["cosine"]["fp32"] == pytest.approx(1, abs=1e-9)
        assert 0.99 < line["cosine"]["bf16"] < 1
    if name == "step":
        (row,) = line["steps"]
        assert row["transformers"] == "torch" and row["of_transformers"] > 0
    if name == "profile":
        assert (tmp_path / "gpu_check_trace.json").stat().st_size > 1000
    if name == "lora":
        assert line["bfloat16"]["last"] < line["bfloat16"]["first"]
        without = find_spec("bitsandbytes") is None
        assert ("left_out" in line["nf4"]) == ("left_out" in line["adamw_8bit"]) == without


def test_a_base_that_moves_and_bits_that_are_not_looked_at_fail(
    check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = check.adapters.SmallTraining.__init__

    def all_of_it(training: Any, *args: Any, **how: Any) -> None:
        whole(training, *args, **how)
        if how.get("model") is not None:
            frozen = next(p for p in how["model"].parameters() if not p.requires_grad)
            frozen.data.add_(1)

    before = check.adapters.fingerprints
    monkeypatch.setattr(check.adapters.SmallTraining, "__init__", all_of_it)
    assert "bfloat16: a frozen weight moved" in examine(check, "lora")["failures"]
    monkeypatch.undo()
    monkeypatch.setattr(
        check.adapters, "fingerprints", lambda model: dict.fromkeys(before(model), 0)
    )
    assert examine(check, "lora")["failures"] == ["a flipped bit is not seen"]


def test_a_policy_gradient_that_is_another_fails(
    check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = check.adapters._gradient

    def noisy(device: Any, batches: Any, precision: str, **changes: Any) -> torch.Tensor:
        out: torch.Tensor = whole(device, batches, precision, **changes)
        return (
            out + 0.5 * out.abs().mean() * torch.arange(len(out)).cos() * (precision == "bf16") * 9
        )

    monkeypatch.setattr(check.adapters, "_gradient", noisy)
    (failure,) = examine(check, "grpo")["failures"]
    assert failure.startswith("bf16: cosine ")


def test_the_share_of_time_in_which_a_card_computes(check: Any) -> None:
    """Two kernels at once count once; 7 of 10 [derived]."""
    assert check.speed.busy([(8, 10), (0, 4), (2, 5)]) == 0.7
    assert check.speed.busy([(0, 10), (1, 2)]) == 1.0
    assert check.speed.busy([]) == 0.0


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


def test_a_module_that_lacks_a_package_ends_its_own_sections_alone(
    check: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "gpu_adapters", None)
        (failure,) = examine(check, "lora")["failures"]
        assert failure.startswith("ModuleNotFoundError: ") and examine(check, "card")["passed"]


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
