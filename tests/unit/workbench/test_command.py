"""Scripts that run other scripts: a stop reaches what they have started."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

_CHILD = """
    import signal, sys, time
    from pathlib import Path
    place = Path(sys.argv[1])
    def stop(*_):
        place.with_suffix(".saved").touch()
        raise SystemExit(1)
    signal.signal(signal.SIGTERM, stop)
    place.touch()
    time.sleep(0.0 if place.name == "0" else 20.0)
"""
_PARENT = """
    import sys
    from concurrent.futures import ThreadPoolExecutor
    from workbench.command import child, finish
    def main():
        script, folder, threads = sys.argv[1:]
        child(script, f"{folder}/0")
        if threads == "1":
            return child(script, f"{folder}/1")
        with ThreadPoolExecutor(2) as pool:
            return max(pool.map(lambda n: child(script, f"{folder}/{n}"), [1, 2, 3, 4]))
    sys.exit(finish(main))
"""


@pytest.mark.parametrize("threads", [1, 2])
def test_sigterm_reaches_the_scripts_that_a_script_runs(tmp_path: Path, threads: int) -> None:
    """Side by side too, and it waits until they have saved; no further one is started."""
    script = tmp_path / "child.py"
    script.write_text(textwrap.dedent(_CHILD))
    command = [sys.executable, "-c", textwrap.dedent(_PARENT), str(script), str(tmp_path)]
    with subprocess.Popen([*command, str(threads)], stderr=subprocess.PIPE, text=True) as parent:
        running = [tmp_path / str(n) for n in range(1, threads + 1)]
        while parent.poll() is None and not all(place.exists() for place in running):
            time.sleep(0.05)
        parent.send_signal(signal.SIGTERM)
        _, said = parent.communicate(timeout=15)
    assert (parent.returncode, said) == (
        1, "stopped; what ran before it is kept, and the same command continues\n",
    )  # fmt: skip
    assert sorted(p.name for p in tmp_path.glob("*.saved")) == [f"{p.name}.saved" for p in running]
    assert not (tmp_path / "3").exists()
