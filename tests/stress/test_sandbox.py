"""At least 500 hostile programs: none escapes, none outlives its limit by over a second."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from reward.sandbox import describe_sandbox

pytestmark = pytest.mark.stress
VARIANTS = 7


def _beside(name: str) -> ModuleType:
    """A module of this folder; there may be another package called `tests` on the path."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


def test_no_hostile_program_escapes_or_overstays(
    tmp_path: Path, count: Callable[[str], None]
) -> None:
    hostile, trial = _beside("hostile_programs"), _beside("sandbox_trial")
    with trial.surroundings(tmp_path, hostile.Surroundings) as (around, touched):
        programs = hostile.programs(VARIANTS, around)
        report = trial.run_all(programs, workers=2)
    kinds = len({p.kind for p in programs})
    count(
        f"sandbox: {len(programs)} hostile programs of {kinds} kinds, {len(report.escapes)} "
        f"escaped, {len(report.overruns)} outlived their limit by over {trial.GRACE_S:g} s "
        f"(longest {report.longest_s:.2f} s, limit {trial.TIMEOUT_S:g} s); "
        f"{', '.join(describe_sandbox()['layers'])}; {dict(report.outcomes)}"
    )
    assert len(programs) >= 500
    assert report.escapes == []
    assert report.overruns == []
    assert touched == []
