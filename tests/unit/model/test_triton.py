"""The fused kernels without a GPU: in Triton's interpreter, and compiled for cards that are not here.

In processes of their own: Triton reads TRITON_INTERPRET as it is imported.
"""

import json
import os
import subprocess
import sys
from typing import Any

import pytest
import torch

from model.layers import fused
from workbench import kernels
from workbench.errors import UserError

ROOT = __file__.rpartition("/tests/")[0]
# Of the largest value: of 20 layouts the worst was 6.7e-7 from fp64; torch's own fp32 path is as far.
EXACT = 1e-6


def trial(*words: str) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.triton_trial", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_layouts_equal_the_torch_path_and_leak_nothing_and_a_wrong_kernel_does_not_serve() -> None:
    """Output and every gradient (of x, B, C, dt, dt_bias, A_log and D) against fp64 [derived]; offsets
    beyond 2^31; what falls back. One process: Triton takes seconds to begin.
    """
    found = trial("quick")
    assert found["layouts"]["layouts"] == 2
    assert found["layouts"]["worst"] < EXACT
    assert found["far"] == {"conv": True, "scan": True, "moved": True}
    said = found["falls_back"].pop("said")
    assert "the conv kernel is off by 1.0e-03 of the largest value here; allowed 1e-04" in said
    assert found["falls_back"] == {"serves": False, "wide": False}


@pytest.mark.stress
@pytest.mark.parametrize("shard", range(8))
def test_1040_layouts(shard: int) -> None:
    found = trial("layouts", str(130 * shard), str(130 * (shard + 1)))
    print(found)
    assert found["layouts"] == 130
    assert found["worst"] < 2 * EXACT


@pytest.mark.stress
def test_each_kernel_in_fp32_and_in_bf16_equals_torchs_operations_on_the_same_numbers() -> None:
    """bf16: factors and results are rounded to 2^-8, a few of them in a row."""
    for name, line in trial("kinds").items():
        assert line["leak"] == "", name
        assert max(line["errors"]) < (1e-2 if "bfloat16" in name else EXACT), name


@pytest.mark.stress
def test_the_nano_2s_heads_of_80_with_128_states() -> None:
    assert max(trial("nano")["errors"]) < EXACT


@pytest.mark.stress
def test_a_model_through_the_kernels_is_isolated_and_has_the_torch_paths_gradients() -> None:
    found = trial("model")
    assert found["kinds"] == ["conv", "norm", "scan"]
    assert found["parameters"] == 29 and found["gap"] < 1e-5


def test_the_cpu_keeps_torchs_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setattr(fused, "_why_not", lambda *args: "")
    monkeypatch.setattr(kernels, "_chosen", "auto")
    assert not fused.serves("conv", torch.zeros(1, 2, 3), 4)
    kernels.choose("triton", "cpu")
    assert fused.serves("conv", torch.zeros(1, 2, 3), 4)
    assert not fused.serves("conv", torch.zeros(1, 2, 3, dtype=torch.float64), 4)
    monkeypatch.delenv("TRITON_INTERPRET")
    assert not fused.serves("conv", torch.zeros(1, 2, 3), 4)
    with pytest.raises(UserError, match="kernels is 'required', which needs a card"):
        kernels.choose("required", "cpu")
    kernels.choose("required", "cuda")
    assert kernels.chosen() == "required" and kernels.strict()


def test_kernels_compile_for_a_card_of_24_gb_and_fit_in_it() -> None:
    """What bf16 launches for the 12B on SM 8.6 [model card: its widths]; the others under `stress`."""
    done = compiled("--sm", "86", "--dtype", "bfloat16", "--kernels", "conv forward", "decays")
    assert {line["kernel"] for line in done} == {"decays", "conv forward"}
    assert all(line["fits"] and line["narrow"] == 0 for line in done)


@pytest.mark.stress
@pytest.mark.parametrize("sm", ["80", "86", "89", "90"])
def test_all_kernels_compile_and_fit(sm: str) -> None:
    done = compiled("--sm", sm)
    for line in done:
        print(line)
    assert len({(line["kernel"], line["type"]) for line in done}) == 17


def compiled(*words: str) -> list[dict[str, Any]]:
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "benchmarks/kernel_compile.py", *words],
        cwd=ROOT, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    return [json.loads(line) for line in done.stdout.splitlines()]
