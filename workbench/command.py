"""The end of every command line: exit codes, and one line where it ends badly.

Imports nothing that is not Python's own: it is what says that something is missing.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from workbench.disk import is_full, no_space
from workbench.errors import UserError
from workbench.installed import is_ours, missing_line

RECIPE_HELP = "a YAML recipe; those shipped are in recipes/"
SET_HELP = (
    "change one value of the recipe, as in stages.grpo.lr=1e-4 (lists by number: phases.0.until); "
    "the value is YAML; may be given several times"
)
_PYTHON = (3, 11)


def command(
    run: Callable[[argparse.Namespace], int],
    arguments: Callable[[argparse.ArgumentParser], None],
    doc: str | None,
) -> int:
    """Read the command line of one script, and run it. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(doc or "").split("\n", 1)[0])
    arguments(parser)
    args = parser.parse_args()
    return finish(lambda: run(args))


_children: set[subprocess.Popen[bytes]] = set()
_stopping = False


def child(script: str, *words: str) -> int:
    """Run another script in a process of its own, and wait for it. Returns its exit code, 1 where it was killed.

    SIGTERM is passed on to it; so that it reaches those that other threads have started, the main thread must
    have called this once. Raises: KeyboardInterrupt, when the child, which Ctrl-C reaches too, has saved what
    it has and ended.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop_children)
    stopped = False
    with subprocess.Popen([sys.executable, script, *words]) as process:
        _children.add(process)
        if _stopping:  # asked for while it was being started
            process.terminate()
        while process.returncode is None:
            try:
                process.wait()
            except KeyboardInterrupt:
                stopped = True
        _children.discard(process)
    if stopped:
        raise KeyboardInterrupt
    return 1 if process.returncode < 0 else process.returncode


def _stop_children(number: int, frame: FrameType | None) -> None:
    global _stopping  # the process is ending
    _stopping = True
    for process in list(_children):
        process.terminate()
    raise KeyboardInterrupt


def finish(main: Callable[[], int]) -> int:
    """Run `main`. Returns the exit code: 0 done, 2 the user's mistake, 1 a failure or a stop."""
    if sys.version_info < _PYTHON:
        version = ".".join(map(str, sys.version_info[:2]))
        return _line(f"error: {missing_line(f'it is Python {version}, not 3.11 or newer')}", 2)
    try:
        code = main()
        sys.stdout.flush()
        return code
    except UserError as error:
        return _line(f"error: {error}", 2)
    except ModuleNotFoundError as error:
        if error.name is None or is_ours(error.name):
            raise
        return _line(f"error: {missing_line(f'it lacks {error.name}')}", 2)
    except KeyboardInterrupt:
        return _line("stopped; what ran before it is kept, and the same command continues", 1)
    except BrokenPipeError:  # `... | head`: the reader has gone, so nothing can be shown
        _forget_stdout()
        return 1
    except OSError as error:
        if not is_full(error):
            if error.filename is None or error.strerror is None:
                raise
            return _line(f"error: {str(error.filename)!r:.300} cannot be used: {error.strerror}", 2)
        _forget_stdout()  # it may be what is full
        return _line(f"error: {no_space(Path(error.filename or '.'))}", 2)


def _line(text: str, code: int) -> int:
    print(text, file=sys.stderr)  # noqa: T201 - the one place that writes to the terminal's stderr
    return code


def _forget_stdout() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
