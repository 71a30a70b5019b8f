"""The sandbox: one hostile program of each kind, each set of layers, and honest reports."""

import importlib.util
import socket
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

from reward import CheckItem, check, check_all, must_be_checkable, sandbox
from reward.sandbox import Limits, SandboxError, describe_sandbox, run_program
from workbench.conversation import CheckSpec
from workbench.errors import UserError

STRESS = Path(__file__).resolve().parents[2] / "stress"
# Kinds that run until their limit take a second each; the stress tier has all of them.
QUICK = [
    "fork_bomb_handled",
    "tcp_connect",
    "udp_send",
    "socket_families",
    "listen",
    "parent_memory",
    "environment",
    "read_files",
    "traversal",
    "symlinks",
    "hardlink",
    "write_outside",
    "change_outside",
    "devices",
    "signal_parent",
    "signal_everything",
    "kill_own_group",
    "daemon",
    "daemon_holding_output",
    "orphans",
    "zombies",
    "memory_at_once",
    "memory_files",
    "sparse_file",
    "output",
    "descriptors",
    "inherited_descriptors",
    "stack",
    "crash",
    "shells",
    "ptrace",
    "namespaces",
    "raise_limits",
    "shared_memory",
    "import_project",
    "site_customize",
    "escape_by_frames",
    "escape_by_cwd",
    "handles",
    "loop",
    "sleep",
    "ignore_signals",
]
SPOOFS = ["exit_0", "print_passed", "always_equal", "builtins", "forged_frames", "early_answers"]


def _stress_module(name: str) -> ModuleType:
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, STRESS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[name])
    return sys.modules[name]


@pytest.mark.parametrize("without", [(), ("namespaces",)], ids=["all layers", "no namespaces"])
def test_hostile_programs_do_not_get_out(tmp_path: Path, without: tuple[str, ...]) -> None:
    """Without namespaces Landlock and seccomp must hold alone, as in a plain container."""
    hostile, trial = _stress_module("hostile_programs"), _stress_module("sandbox_trial")
    with trial.surroundings(tmp_path, hostile.Surroundings) as (around, touched):
        made = {p.kind: p for p in hostile.programs(1, around)}
        kinds = QUICK[1::3] if without else QUICK + SPOOFS
        report = trial.run_all([made[kind] for kind in kinds], workers=2, without=without)
    assert sum(report.outcomes.values()) == len(kinds)
    assert report.escapes == []
    assert report.overruns == []
    assert touched == []


def test_an_honest_program_runs_and_is_reported() -> None:
    run = run_program(
        "import json, sys\nsys.stderr.write('e')\nprint(json.loads(input())['a'])", '{"a": "ü"}'
    )
    assert (run.outcome, run.exit_code, run.stdout, run.stderr) == ("exited", 0, "ü\n", "e")
    assert run_program("raise SystemExit(7)").exit_code == 7
    assert run_program("import os, signal; os.kill(os.getpid(), 11)").exit_code in (-11, 0)
    failing = run_program("1 / 0")
    assert failing.exit_code == 1
    assert "ZeroDivisionError" in failing.stderr
    assert run_program("open('x', 'w').write('kept'); print(open('x').read())").stdout == "kept\n"


def test_limits_have_names() -> None:
    assert run_program("while True: pass", limits=Limits(timeout_s=0.5)).outcome == "time_limit"
    assert run_program("while True: print('x' * 999)").outcome == "output_limit"
    assert "MemoryError" in run_program("x = bytearray(2 ** 31)").stderr


def test_no_safe_layer_is_refused_unless_allowed() -> None:
    weak = ("namespaces", "landlock")
    with pytest.raises(SandboxError, match="allow_weak"):
        run_program("print(1)", without=weak)
    assert run_program("print(1)", without=weak, allow_weak=True).stdout == "1\n"


_NO_NAMESPACES = """
for kind in user mnt pid net ipc uts; do echo 0 > /proc/sys/user/max_${kind}_namespaces; done
exec "$@"
"""
_REPORT = """
import sys; sys.path.insert(0, sys.argv[1])
from reward.sandbox import SandboxError, describe_sandbox, run_program
print(any(layer.startswith("namespaces") for layer in describe_sandbox()["layers"]))
print(run_program("print(1)").stdout.strip())
try:
    print(run_program("print(1)", without=("landlock",)))
except SandboxError as error:
    print(error)
"""


def test_a_kernel_that_gives_no_namespaces() -> None:
    """Landlock and seccomp hold alone; where one of them is missing too, nothing is run."""
    command = ["unshare", "-Ur", "bash", "-c", _NO_NAMESPACES, "sh", sys.executable, "-c", _REPORT]
    done = subprocess.run(
        [*command, str(STRESS.parents[1])], capture_output=True, text=True, check=False
    )
    if "unshare" in done.stderr or "/proc/sys/user" in done.stderr:
        pytest.skip("needs a user namespace of its own, to take the others away in it")
    lines = done.stdout.splitlines()
    assert lines[:2] == ["False", "1"], done.stderr
    assert len(lines) == 3
    assert lines[2].startswith("no safe sandbox: neither namespaces nor Landlock with seccomp")


_LITTLE = """
import resource, sys; sys.path.insert(0, sys.argv[1])
from reward import check
from reward.sandbox import Limits, SandboxError, run_program
resource.setrlimit(resource.RLIMIT_AS, (3 * 2**30, 3 * 2**30))
try:
    print(run_program("print(1)", limits=Limits(memory_bytes=4 * 2**30)))
except SandboxError as error:
    print(error)
right = "```python\\nprint(input())\\n```"
verdict = check("contest", right, {"tests": [{"input": "1", "output": "1"}]}, memory_mb=4096)
print(verdict.value, verdict.status, verdict.parts["reason"])
"""


def test_a_limit_that_the_machine_does_not_allow_is_no_verdict_on_the_program() -> None:
    """A scheduler's own bound on memory, say: the right program never ran."""
    done = subprocess.run(
        [sys.executable, "-c", _LITTLE, str(STRESS.parents[1])],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "the sandbox broke: ValueError: not allowed to raise maximum limit",
        "None error the sandbox broke: ValueError: not allowed to raise maximum limit",
    ], done.stderr


def test_checks_that_run_programs_are_refused_before_anything_is_sampled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused = {"safe": False, "layers": [], "problem": "no safe sandbox: no kernel"}
    monkeypatch.setattr(sandbox, "describe_sandbox", lambda: refused)
    code = CheckSpec("code", {"expected_output": "1"})
    both = CheckSpec(
        "composite", [{"kind": "math", "reference": "1"}, {"kind": "code", "reference": {}}]
    )
    contest = CheckSpec("contest", {"tests": [{"input": "", "output": "1"}]})
    for specs in ([CheckSpec("math", "1"), code], [None, both], [contest]):
        with pytest.raises(UserError, match="^programs cannot be checked on this machine: no safe"):
            must_be_checkable(specs)
    must_be_checkable([None, CheckSpec("math", "1"), CheckSpec("code", {}, {"allow_weak": True})])


def test_a_sandbox_that_cannot_start_is_an_error_not_a_score(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sandbox, "_BOOT", "raise SystemExit(1)")
    verdict = check("code", "```python\nprint(1)\n```", {"expected_output": "1"})
    assert (verdict.value, verdict.status) == (None, "error")


FORMS = [
    {"function": "f", "tests": [[[1], 2]]},
    {"function": "f", "program_suffix": "def check(f):\n    assert f(1) == 2\n"},
    {"stdin": "", "expected_output": "2"},
]


@pytest.mark.parametrize("reference", FORMS, ids=["values", "test code", "output"])
@pytest.mark.parametrize("when", ["always", "once"])
def test_a_sandbox_that_is_killed_from_outside_is_no_verdict_on_the_program(
    monkeypatch: pytest.MonkeyPatch, reference: dict[str, object], when: str
) -> None:
    """Always: in the middle of a program that never ends. Once: as soon as the program is there."""
    sleep = 3600 if when == "always" else 0
    text = f"```python\nimport time\ndef f(x):\n    time.sleep({sleep})\n    return x + 1\n```"
    if "stdin" in reference:
        text = text.replace("\n```", "\nprint(f(1))\n```")
    enter, killed, killers = sandbox.Sandboxed.__enter__, [], []

    def kill(box: sandbox.Sandboxed) -> None:
        killed.append(box.process.pid)
        box.process.kill()

    def enter_and_die(box: sandbox.Sandboxed) -> sandbox.Sandboxed:
        enter(box)
        if when == "always":
            killers.append(threading.Timer(0.4, kill, [box]))
            killers[-1].start()
        elif not killed:
            kill(box)
        return box

    monkeypatch.setattr(sandbox.Sandboxed, "__enter__", enter_and_die)
    (verdict,) = check_all([CheckItem("code", text, reference, {"timeout_s": 60.0})])
    for killer in killers:
        killer.cancel()
    expected = (None, "error", 2) if when == "always" else (1.0, "ok", 2)
    assert killed
    assert (verdict.value, verdict.status, verdict.parts.get("attempts")) == expected, verdict


def test_the_report_names_the_layers() -> None:
    report = describe_sandbox()
    assert report["safe"] is True
    assert any(layer.startswith(("namespaces", "landlock")) for layer in report["layers"])
    assert "rlimits" in report["layers"]


def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    run_program("open('f', 'w').write('x')")
    run_program("open('f', 'w').write('x')", without=("namespaces",))
    assert list(tmp_path.iterdir()) == []
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(3):
        run_program("pass")
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors


@pytest.mark.skipif(
    not Path("/usr/bin/python3").exists() or subprocess.getoutput("id -u") != "0",
    reason="needs root, to become an ordinary user, and a system Python",
)
def test_an_ordinary_user_gets_a_safe_sandbox_too() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]); sys.dont_write_bytecode = True\n"
        "from reward.sandbox import describe_sandbox, run_program\n"
        "print(describe_sandbox()['safe'], run_program('import os; print(os.getpid())').stdout)"
    )
    done = subprocess.run(
        ["/usr/bin/python3", "-c", code, str(STRESS.parents[1])],
        capture_output=True,
        text=True,
        user=65534,
        group=65534,
        extra_groups=[],
        cwd="/",
        env={"PATH": "/usr/bin:/bin"},
        check=False,
    )
    if "Permission denied" in done.stderr or "ModuleNotFoundError" in done.stderr:
        pytest.skip("this checkout is not readable by an ordinary user")
    assert done.stdout.split()[0] == "True", done.stderr


def test_each_layer_alone_closes_the_network() -> None:
    """With both in place either may fail: namespaces without a filter of calls, and the filter alone."""
    if not any(layer.startswith("namespaces") for layer in describe_sandbox()["layers"]):
        pytest.skip("this machine gives no namespaces")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        code = (
            "import socket\n"
            f"socket.create_connection(('127.0.0.1', {port}), timeout=1.0)\n"
            "print('reached')\n"
        )
        for without in ((), ("landlock", "seccomp"), ("namespaces",)):
            run = run_program(code, without=without)
            assert run.exit_code == 1, without
            assert "reached" not in run.stdout
            assert "Error" in run.stderr, without
