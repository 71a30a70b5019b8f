"""What tests of several folders share."""

import os
import shutil
import uuid
from collections.abc import Iterator
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
