"""What tests of several folders share."""

import uuid
from collections.abc import Iterator

import pytest

from tests import tiny


@pytest.fixture
def mark(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Marks every process of the test, whoever its parent is; none may outlive it."""
    name = uuid.uuid4().hex
    monkeypatch.setenv(tiny.MARK, name)
    yield name
    monkeypatch.delenv(tiny.MARK)
    tiny.end_marked(name)
