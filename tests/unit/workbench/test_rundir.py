"""The run directory: where it lies, who holds it, what is kept."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from workbench.disk import is_full
from workbench.errors import UserError
from workbench.rundir import RunDir, read_json, write_json

ROOT = Path(__file__).resolve().parents[3]
HOLD = """
import signal, sys, time
from pathlib import Path
from workbench.rundir import RunDir
signal.signal(signal.SIGTERM, signal.SIG_IGN)
with RunDir(Path(sys.argv[1])).stage_claimed("s"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_in_a_copy_that_ray_made_a_relative_folder_is_kept_at_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    run, line = RunDir.of("runs", "mine")
    assert (run.root, line) == (tmp_path / "runs" / "mine", None)
    copy = tmp_path / "session_1/runtime_resources/working_dir_files/_ray_pkg_0a1b"
    copy.mkdir(parents=True)
    monkeypatch.chdir(copy)
    run, line = RunDir.of("runs", "mine")
    assert run.root == tmp_path / "home" / "anneal" / "runs" / "mine"
    assert line is not None and str(run.root) in line and "--set runs_dir=" in line
    for given in (str(tmp_path / "shared"), "~/kept"):
        run, line = RunDir.of(given, "mine")
        assert (run.root, line) == (Path(given).expanduser() / "mine", None)


@pytest.mark.parametrize("grace_s", [0.0, 30.0])
def test_a_worker_left_over_from_a_killed_driver_is_waited_for_then_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, grace_s: float
) -> None:
    monkeypatch.setattr("workbench.rundir._LEFTOVER_GRACE_S", grace_s)
    held = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert held.stdout is not None and held.stdout.readline() == "held\n"
    run = RunDir(tmp_path)
    assert (tmp_path / ".locks/s").read_text() == f"{held.pid} on {socket.gethostname()}\n"
    try:
        if grace_s == 0:
            with run.stage_claimed("s"):
                assert held.wait(timeout=10) == -signal.SIGKILL
                assert (tmp_path / ".locks/s").read_text().startswith(f"{os.getpid()} on ")
        else:
            started = time.monotonic()
            with (
                pytest.raises(UserError, match=f"still running as {held.pid} on"),
                run.stage_claimed("s", wait_s=0.5),
            ):
                pass
            assert time.monotonic() - started >= 0.5
            assert held.poll() is None
    finally:
        held.kill()
        held.wait()
    with run.stage_claimed("s"):  # the kernel let go of it
        pass


def test_a_write_that_fails_leaves_the_old_file_and_no_half(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    write_json(path, {"status": "running"})
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, before[1]))
    try:
        with pytest.raises(OSError) as caught:
            write_json(path, {"status": "done"})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert is_full(caught.value)
    assert "running" in path.read_text()
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.json"]


def attempt(run: RunDir, status: str, mark: str, *, checkpoint: bool = False) -> None:
    write_json(run.stage("s") / "manifest.json", {"status": status})
    (run.stage("s") / mark).write_text("")
    if checkpoint:
        (run.stage("s") / "checkpoints/step-1").mkdir(parents=True)


def kept(run: RunDir, place: str) -> set[str]:
    folder = run.root / ".replaced" / place
    return {p.name for p in folder.iterdir()} - {"manifest.json", "checkpoints"}


def test_a_lesser_attempt_never_takes_the_place_of_a_result(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    attempt(run, "done", "good")
    run.set_aside("s")
    attempt(run, "failed", "half trained", checkpoint=True)
    run.set_aside("s")
    for status in ("failed", "running"):
        attempt(run, status, "typo")
        run.set_aside("s")
        assert not run.stage("s").exists()
    assert kept(run, "s") == {"good"}
    assert kept(run, ".unfinished/s") == {"half trained"}
    run.stage("s").mkdir()
    (run.stage("s") / "manifest.json").write_text('{"sta')  # cut short by a kill
    run.set_aside("s")
    assert kept(run, "s") == {"good"}
    attempt(run, "done", "newer")
    run.set_aside("s")
    assert kept(run, "s") == {"newer"}
    run.set_aside("s")  # nothing there


def test_an_evals_stage_moves_its_records_and_no_results(tmp_path: Path) -> None:
    """Other stages and sweeps have theirs in the same folder, `evals`."""
    run = RunDir(tmp_path)
    result = run.root / "evals" / "sft" / "mini-math@64" / "results.json"
    write_json(result, {"of": "stage budgets"})
    run.set_aside("evals")  # it never ran
    assert not (run.root / ".replaced").exists()
    for completion in ("first", "second"):
        write_json(run.stage("evals") / "manifest.json", {"status": "done", "is": completion})
        write_json(run.root / ".replaced" / "evals" / "sft" / "ifeval" / "results.json", {})
        run.set_aside("evals")
        assert result.is_file() and run.manifest("evals") is None
        aside = run.root / ".replaced" / "evals"
        assert read_json(aside / "manifest.json")["is"] == completion
        assert (aside / "sft" / "ifeval" / "results.json").is_file()
    write_json(run.stage("evals") / "manifest.json", {"status": "failed"})
    run.set_aside("evals")
    assert read_json(run.root / ".replaced" / "evals" / "manifest.json")["is"] == "second"
    assert result.is_file()


def test_a_finished_stage_keeps_its_results_only(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for name in ("checkpoints/step-1.pt", ".model.writing-7/w", "model/config.json", ".x.json.9"):
        (tmp_path / "s" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "s" / name).write_text("")
    run.tidy("s")
    assert [p.name for p in (tmp_path / "s").iterdir()] == ["model"]
