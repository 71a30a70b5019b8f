import io
import json
import re
from pathlib import Path

import pytest

from workbench import progress
from workbench.progress import ProgressDisplay, ProgressFile, describe, read_progress


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1_795_487_037.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress, "time", clock)
    return clock


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_rate_and_eta_come_from_the_updates(tmp_path: Path, clock: Clock) -> None:
    file = ProgressFile(tmp_path / "progress.json", stage="sft1")
    for step in range(1, 6):
        clock.now += 2
        file.update(step=step, total=20, tokens=step * 3000, message="train")
    # 4 steps and 12,000 tokens in 8 s; 15 steps are left at 2 s each.
    assert read_progress(file.path) == {
        "stage": "sft1", "message": "train", "step": 5, "total": 20, "unit": "step",
        "rate": 1500.0, "rate_unit": "tok/s", "eta_s": 30.0, "updated_at": 1_795_487_037.0,
    }  # fmt: skip


def test_without_tokens_the_rate_is_in_steps(tmp_path: Path, clock: Clock) -> None:
    file = ProgressFile(tmp_path / "progress.json", stage="evals")
    for step in (0, 1):
        clock.now += 4
        file.update(step=step, total=3, unit="model")
    state = read_progress(file.path)
    assert (state["rate"], state["rate_unit"], state["eta_s"]) == (0.25, "model/s", 8.0)


def test_a_slow_start_is_forgotten(tmp_path: Path, clock: Clock) -> None:
    file = ProgressFile(tmp_path / "progress.json", stage="grpo")
    file.update(step=0, total=100)
    clock.now += 600  # the engine starts
    for step in range(1, 41):
        clock.now += 2
        file.update(step=step, total=100)
    assert read_progress(file.path)["eta_s"] == pytest.approx(120)


def test_it_is_written_at_most_once_a_second_but_for_news_and_the_end(
    tmp_path: Path, clock: Clock
) -> None:
    file = ProgressFile(tmp_path / "progress.json", stage="sft1")

    def written(**values: object) -> bool:
        file.path.unlink(missing_ok=True)
        file.update(**values)  # type: ignore[arg-type]
        return file.path.is_file()

    assert written(step=1, total=9, message="train")
    clock.now += 0.4
    assert not written(step=2, total=9, message="train")
    assert not written(message="train")
    clock.now += 0.7
    assert written(step=3, total=9, message="train")
    assert written(step=3, total=9, message="saving")
    assert written(step=9, total=9, message="saving")


def test_a_missing_or_half_written_file_is_no_progress(tmp_path: Path) -> None:
    assert read_progress(tmp_path / "progress.json") == {}
    (tmp_path / "progress.json").write_text('{"stage": ')
    assert read_progress(tmp_path / "progress.json") == {}
    assert describe("sft1", {}) == "sft1: waiting for a worker with its CPUs and GPUs"


def _running(tmp_path: Path, show: ProgressDisplay, stage: str, step: int) -> None:
    folder = tmp_path / stage
    folder.mkdir(exist_ok=True)
    show.watch(stage, folder)
    state = {"message": "train", "step": step, "total": 80, "unit": "step", "rate": 1830.5,
             "rate_unit": "tok/s", "eta_s": 95.1}  # fmt: skip
    (folder / "progress.json").write_text(json.dumps(state))


def test_in_a_log_each_running_stage_gets_a_line_every_ten_seconds(
    tmp_path: Path, clock: Clock
) -> None:
    out = io.StringIO()
    with ProgressDisplay(out) as show:
        show.decided("sft1", True, "never run")
        _running(tmp_path, show, "sft1", 12)
        for _ in range(41):  # 20.5 s
            clock.now += 0.5
            show.refresh()
        show.finished("sft1", "done", "", 110.0)
        clock.now += 30
        show.refresh()
    line = "  sft1: train  step 12/80 (15%)  1,830 tok/s  ETA 1:35"
    assert out.getvalue().splitlines() == [
        "> sft1: runs (never run)",
        line,
        line,
        "+ sft1: done after 1:50",
    ]


def test_on_a_terminal_there_is_a_live_line_a_stage_and_notes_stay(
    tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    out = Terminal()
    with ProgressDisplay(out) as show:
        _running(tmp_path, show, "sft1", 12)
        _running(tmp_path, show, "dpo", 40)
        for _ in range(3):
            clock.now += 0.5
            show.refresh()
        show.finished("dpo", "failed", "it broke", 61.0)
    text = out.getvalue()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    assert "step 12/80 (15%)  1,830 tok/s  ETA 1:35" in plain
    assert "step 40/80 (50%)" in plain
    assert plain.endswith("! dpo: failed after 1:01  it broke\n")
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h")  # the cursor is given back


def test_a_rerun_does_not_show_the_progress_of_the_attempt_before(tmp_path: Path) -> None:
    (tmp_path / "progress.json").write_text('{"message": "train", "step": 79, "total": 80}')
    ProgressDisplay(io.StringIO()).watch("sft1", tmp_path)
    assert read_progress(tmp_path / "progress.json") == {}
