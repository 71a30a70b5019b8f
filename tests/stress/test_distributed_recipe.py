"""The miniature's training stages on two processes through Ray, killed and continued in other layouts on the
way, beside the same recipe in one process.

python -m pytest tests/stress/test_distributed_recipe.py -m stress -s
"""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests import tiny
from tests.beside import beside, table
from workbench.rundir import read_json_lines

pytestmark = pytest.mark.stress
STAGES = ("pretrain", "sft1", "grpo", "dpo", "distill", "on-policy")
LIMIT_S = 3600.0


@dataclass
class Kill:
    """kill -9, once a stage has logged a step, of one of its processes, of an engine, or (rank None) of the
    driver. The stage goes on in the layout `then`; after a rank Ray Train starts all processes again."""

    stage: str
    step: int
    rank: int | None = None
    engine: bool = False
    then: dict[str, str | int] = field(default_factory=dict)


KILLS = [
    Kill("pretrain", 12, rank=1),
    Kill("pretrain", 22, then={"context": 2}),
    Kill("sft1", 3, then={"context": 1}),
    Kill("grpo", 1, rank=1),
    Kill("grpo", 2, engine=True),
    Kill("grpo", 3, then={"strategy": "none", "workers": 1}),
    Kill("dpo", 3, rank=0),
    Kill("distill", 5, then={"context": 2}),
    Kill("on-policy", 2, rank=0),
]


def words(folder: Path, **layouts: dict[str, str | int]) -> list[str]:
    sets = [
        f"stages.{stage}.distributed.{key}={value}"
        for stage, layout in layouts.items()
        for key, value in layout.items()
    ]
    named = [word for one in [f"runs_dir={folder}", *sets] for word in ("--set", one)]
    return ["all", "--recipe", "recipes/miniature-distributed.yaml", *named]


def pid_of(run: Path, stage: str, rank: int, mark: str) -> int | None:
    """The worker that writes the rank's log."""
    log = run / stage / "workers" / f"rank-{rank}.txt"
    for pid in tiny.marked(mark):
        try:
            if log.samefile(f"/proc/{pid}/fd/1"):
                return pid
        except OSError:
            continue
    return None


def engines(mark: str) -> list[int]:
    """The processes of engines."""
    return [pid for pid, title in tiny.marked(mark).items() if title.startswith("ray::EngineActor")]


def asked(run: Path) -> list[tuple[int, str]]:
    """Which prompts GRPO asked in which step, once a reply: none is lost and none asked twice."""
    rows = read_json_lines(run / "grpo" / "rollouts.jsonl")
    return sorted((row["step"], row["prompt"]) for row in rows)


class Disturbed:
    """One run that is killed again and again, and what was done to it."""

    def __init__(self, folder: Path, mark: str, tell: Callable[[str], None]) -> None:
        self.folder, self.mark, self.tell = folder, mark, tell
        self.run = folder / "miniature-distributed"
        self.layouts: dict[str, dict[str, str | int]] = {}
        self.left = list(KILLS)

    def whole(self) -> None:
        """To the end."""
        end = time.monotonic() + LIMIT_S
        while not self._to_the_next_death(end):
            tiny.no_one_left(self.mark, but_agents=True)
        assert not self.left, self.left

    def _to_the_next_death(self, end: float) -> bool:
        """Start, and kill what is due. Returns whether the driver ended by itself, all done."""
        driver = tiny.start(*words(self.folder, **self.layouts), stdout=subprocess.DEVNULL)
        while driver.poll() is None:
            assert time.monotonic() < end, f"{self.left} after {LIMIT_S:.0f} s"
            for kill in self.left:
                if tiny.steps(self.run, kill.stage) >= kill.step and self._did(kill, driver):
                    self.left.remove(kill)
                    break
            time.sleep(0.05)
        _, said = driver.communicate()
        assert said == "", said
        assert driver.returncode in (0, -signal.SIGKILL), driver.returncode
        return driver.returncode == 0

    def _did(self, kill: Kill, driver: "subprocess.Popen[str]") -> bool:
        first = next(other for other in self.left if other.stage == kill.stage)
        if first is not kill:
            return False
        if kill.engine:
            pids = engines(self.mark)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            if not pids:
                return False
        elif kill.rank is None:
            driver.kill()
            driver.wait()
            self.layouts[kill.stage] = kill.then
        else:
            pid = pid_of(self.run, kill.stage, kill.rank, self.mark)
            if pid is None:
                return False
            os.kill(pid, signal.SIGKILL)
        who = "the driver" if kill.rank is None else f"rank {kill.rank}"
        who = "the engine" if kill.engine else who
        self.tell(f"{kill.stage}: {who} killed at step {tiny.steps(self.run, kill.stage)}")
        return True


def test_the_recipe_is_killed_in_every_stage_and_ends_as_in_one_process(
    tmp_path: Path, mark: str, count: Callable[[str], None]
) -> None:
    def tell(line: str) -> None:
        count(line)
        print(line, flush=True)

    alone: dict[str, str | int] = {"strategy": "none", "workers": 1, "context": 1}
    disturbed = Disturbed(tmp_path / "spread", mark, tell)
    disturbed.whole()
    layouts = {stage: alone for stage in STAGES}
    tiny.finish(*words(tmp_path / "alone", **layouts), timeout_s=LIMIT_S)
    found = beside(disturbed.run, tmp_path / "alone" / "miniature-distributed")
    for line in table(found).splitlines():
        tell(line)
    for kill in KILLS:
        warnings = tiny.manifest(disturbed.run, kill.stage)["outputs"].get("warnings", [])
        said = "was lost and all were started again" if kill.rank is not None else ""
        said = "an engine died and was made again" if kill.engine else said
        assert any(said in line for line in warnings) or not said, (kill, warnings)
    for stage in found:
        if stage.steps:
            tiny.each_step_once(disturbed.run, stage.stage, stage.steps)
    alone_run = tmp_path / "alone" / "miniature-distributed"
    assert asked(disturbed.run) == asked(alone_run)
    far = {s.stage: (s.loss or 0.0, s.weights) for s in found}
    count(json.dumps(far))
    assert set(far) == {*STAGES, "prune"}
    assert all(loss < 1e-4 and weights < 1e-3 for loss, weights in far.values()), far
    for run in (disturbed.run, alone_run):
        assert (run / "report.html").is_file()
