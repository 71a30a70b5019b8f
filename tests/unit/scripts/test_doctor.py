"""The doctor: what is broken is named with the command that mends it."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from scripts import doctor
from tests import tiny
from workbench import provenance


def test_this_machine_is_examined_for_real() -> None:
    words = [sys.executable, str(tiny.ROOT / "scripts/doctor.py"), "--json"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    found = {one["what"]: one for one in json.loads(done.stdout)}
    assert "torch 2." in found["packages"]["found"]
    assert found["isolation"]["works"] and "to the bit" in found["isolation"]["found"]
    assert {"memory", "disk", "sandbox", "Triton", "shared memory"} <= set(found)


def test_a_card_beside_a_cpu_build_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_gpu_names", lambda: ["NVIDIA L4"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (one,) = doctor._cards()
    assert not one.works and "NVIDIA L4" in one.found and "FLAVOUR=cuda" in one.mend


@pytest.mark.parametrize(
    ("capability", "says"), [((7, 5), "fp16 only"), ((8, 6), "bf16"), ((9, 0), "bf16 and fp8")]
)
def test_what_a_card_can_do(
    capability: tuple[int, int], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Properties:
        name, total_memory, (major, minor) = "card", 24 * 2**30, capability

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties())
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (20 * 2**30, 24 * 2**30))
    (one,) = doctor._cards()
    assert one.found.endswith(says) and "24 GiB (20 free)" in one.found


def test_missing_packages_end_the_examination_and_count(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.find_spec

    def lacking(name: str) -> Any:
        return None if name in {"torch", "vllm"} else real(name)

    monkeypatch.setattr(doctor, "find_spec", lacking)
    findings = doctor.examine()
    assert findings[0].mend == "make setup" and "torch, vllm" in findings[0].found
    assert doctor.lines(findings)[-1] == "does not run here: packages"


def test_a_leak_between_documents_is_not_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    from model.layers import isolation

    def leak(*args: object) -> None:
        raise isolation.IsolationError("changing document 0 changes the logits of others")

    monkeypatch.setattr(isolation, "check_isolation", leak)
    one = doctor._isolation()
    assert one.needed and not one.works and "document 0" in one.found
