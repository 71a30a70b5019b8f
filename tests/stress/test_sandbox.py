"""At least 500 hostile programs: none escapes, none outlives its limit by over a second."""

import importlib.util
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from reward.sandbox import describe_sandbox

pytestmark = pytest.mark.stress
VARIANTS, PARTS = 7, 2


def _beside(name: str) -> ModuleType:
    """A module of this folder; there may be another package called `tests` on the path."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


RUN: list[tuple[str, Any]] = []
"""(kind of program, report of the part it was in): what all parts add up to."""


@pytest.mark.parametrize("part", range(PARTS))
def test_no_hostile_program_escapes_or_overstays(
    tmp_path: Path, part: int, count: Callable[[str], None]
) -> None:
    hostile, trial = _beside("hostile_programs"), _beside("sandbox_trial")
    with trial.surroundings(tmp_path, hostile.Surroundings) as (around, touched):
        every = hostile.programs(VARIANTS, around)
        report = trial.run_all(every[part::PARTS], workers=2)
    RUN.extend((program.kind, report) for program in every[part::PARTS])
    if part == PARTS - 1:
        reports = list({id(r): r for _, r in RUN}.values())
        escapes, overruns = (
            sum(len(getattr(r, n)) for r in reports) for n in ("escapes", "overruns")
        )
        outcomes = sum((r.outcomes for r in reports), Counter())
        count(
            f"sandbox: {len(RUN)} hostile programs of {len({k for k, _ in RUN})} kinds, {escapes} "
            f"escaped, {overruns} outlived their limit of {trial.TIMEOUT_S:g} s by over "
            f"{trial.GRACE_S:g} s (longest {max(r.longest_s for r in reports):.2f} s); "
            f"{', '.join(describe_sandbox()['layers'])}; {dict(outcomes)}"
        )
    assert len(every) >= 500
    assert report.escapes == []
    assert report.overruns == []
    assert touched == []
