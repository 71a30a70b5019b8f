"""The doctor: what is broken is named with the command that mends it."""

import json
import subprocess
import sys
from typing import Any

import pytest
import torch

from model import room
from model.layers import fused
from scripts import doctor, doctor_cards
from tests import tiny
from workbench import provenance


def test_this_machine_is_examined_for_real() -> None:
    words = [sys.executable, str(tiny.ROOT / "scripts/doctor.py"), "--json"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr + done.stdout
    found = {one["what"]: one for one in json.loads(done.stdout)}
    assert "torch 2." in found["packages"]["found"]
    assert found["isolation"]["works"] and "to the bit" in found["isolation"]["found"]
    assert "fp32 and in bf16" in found["isolation"]["found"]
    assert {"memory", "disk", "sandbox", "Triton", "shared memory", "SFT of nano2-9b"} <= set(found)


def test_a_card_beside_a_cpu_build_of_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance, "_gpu_names", lambda: ["NVIDIA L4"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    (one,) = doctor_cards.cards()
    assert not one.works and "NVIDIA L4" in one.found and "FLAVOUR=cuda" in one.mend
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(provenance, "driver", lambda: "535.1")
    (one,) = doctor_cards.cards()
    assert "torch cannot use them (driver 535.1)" in one.found and "driver to CUDA 13" in one.mend


def a_card(monkeypatch: pytest.MonkeyPatch, capability: tuple[int, int], cuda: str) -> None:
    """One of 24 GiB that is not here."""

    class Properties:
        name, total_memory, (major, minor) = "card", 24 * 2**30, capability

    class Entered:
        def __init__(self, device: torch.device) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *error: object) -> None: ...

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties())
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "card")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (20 * 2**30, 24 * 2**30))
    monkeypatch.setattr(torch.cuda, "device", Entered)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(provenance, "driver", lambda: "580.65.06")


@pytest.mark.parametrize(
    ("capability", "cuda", "says"),
    [
        ((7, 5), "12.9", "SM7.5, fp32 and fp16 only"),
        ((8, 6), "12.9", "SM8.6, bf16"),
        ((9, 0), "12.9", "SM9.0, bf16 and fp8"),
        ((9, 0), "12.8", "SM9.0, bf16; precision fp8 needs torch with CUDA 12.9 or newer"),
        ((10, 0), "13.0", "SM10.0, bf16"),
    ],
)
def test_what_a_card_can_do(
    capability: tuple[int, int], cuda: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_card(monkeypatch, capability, cuda)
    driver, one = doctor_cards.cards()
    assert driver.found.startswith("580.65.06; torch 2.") and driver.found.endswith(f"CUDA {cuda}")
    told = one.found.partition("24 GiB (20 free), ")[2]
    assert told == says or (";" in says and told.startswith(says))


def test_kernels_are_tried_and_one_that_does_not_work_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    a_card(monkeypatch, (8, 6), "12.9")
    asked = []

    def trial(kind: str, device: torch.device, dtype: torch.dtype, sizes: tuple[int, ...]) -> str:
        asked.append((kind, device, dtype, sizes))
        return "is off by 1.0e-01" if (kind, dtype) == ("scan", torch.bfloat16) else broken

    monkeypatch.setattr(fused, "problem", trial)
    broken = ""
    (one,) = doctor_cards.kernels()
    assert not one.works and not one.needed and one.mend
    assert one.found.startswith(
        "work: scan in fp32, conv in fp32, conv in bf16, norm in fp32, norm in bf16, attention in bf16; "
        "torch's operations stand in where scan in bf16 is off by 1.0e-01"
    )
    # The 9B's widths [model card].
    sizes = {kind: of for kind, _, _, of in asked}
    assert sizes == {"scan": (80, 128), "conv": (4,), "norm": (1280,), "attention": (128, 5)}
    assert {str(device) for _, device, _, _ in asked} == {"cuda:0"}
    broken = "does not run here"
    assert doctor_cards.kernels()[0].found.startswith("work: none;")


def test_what_cards_have_room_for_is_the_plans_word() -> None:
    """16 bytes a parameter of 8.2 billion fit no card [derived]: adapters do."""
    found = {one.what: one.found for one in doctor_cards.room()}
    assert "scripts/plan.py" in found.pop("one card of 24, 40, 80, 141 GB")
    assert len(found) == 6
    told = found["SFT of qwen3-8b"]
    first = told.split(";")[0]
    assert first.startswith("24 GB: ") and "lora: {rank: 16, base: " in first
    assert all(text.startswith("24 GB: ") and "141 GB" in text for text in found.values())


def test_grpo_is_asked_for_as_its_plan_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = list[Any]()
    monkeypatch.setattr(room, "fits", lambda seated: str(asked.append(seated)))
    doctor_cards.room()
    trained = [seated.loads[0] for seated in asked if len(seated.loads) == 2]
    assert {(load.output, load.published) for load in trained} == {("logprobs", True)}


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
