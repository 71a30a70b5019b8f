"""The counts of the stress tests, a line each, at the end of the output."""

from collections.abc import Callable

import pytest

_LINES: list[str] = []


@pytest.fixture
def count() -> Callable[[str], None]:
    """Add a line to what is shown at the end, whether the test passes or not."""
    return _LINES.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Show the lines."""
    if _LINES:
        terminalreporter.section("counts")
        for line in _LINES:
            terminalreporter.write_line(line)
