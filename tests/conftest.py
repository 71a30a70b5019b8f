"""What tests of several folders share."""

import os
import shutil
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import thread as pools
from pathlib import Path

import pytest

from tests import tiny
from tests.ray_head import RayHead
from tests.shapes import check_shapes

check_shapes()  # before a test imports what it checks


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Marks every process of the test, whoever its parent is; none may outlive it."""
    name = uuid.uuid4().hex
    monkeypatch.setenv(tiny.MARK, name)
    yield name
    monkeypatch.delenv(tiny.MARK)
    tiny.end_marked(name)


@pytest.fixture
def head(mark: str) -> Iterator[RayHead]:
    folder = Path("/tmp") / f"ray-{os.getpid()}"  # socket paths are limited to 107 characters
    folder.mkdir()
    running = RayHead(folder)
    try:
        running.start()
        yield running
    finally:  # by the test's mark: `ray stop` would end everybody's
        tiny.end_marked(mark)
        shutil.rmtree(folder, ignore_errors=True)


_PATIENCE_S = 20.0
_ended: list[int] = []


def pytest_sessionfinish(exitstatus: int) -> None:
    """Kept for `pytest_unconfigure`, which is not told."""
    _ended.append(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_unconfigure() -> None:
    """Python waits at its end for every thread that is not a daemon. One that a test left behind, on a request
    with a limit of half an hour, say, is named and not waited for."""
    for waiting in list(pools._threads_queues.values()):
        waiting.put(None)  # has an idle worker end, as Python itself would in a moment
    until = time.monotonic() + _PATIENCE_S
    others = [t for t in threading.enumerate() if t is not threading.main_thread() and not t.daemon]
    for thread in others:
        thread.join(max(until - time.monotonic(), 0.0))
    left = [thread.name for thread in others if thread.is_alive()]
    if left and _ended:
        print(f"threads left by tests: {', '.join(left)}", flush=True)
        sys.stderr.flush()
        os._exit(_ended[-1])
