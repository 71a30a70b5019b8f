"""Real pages for tests: two of mpmath's documentation (BSD-3-Clause, tests/pages/LICENSE)."""

from pathlib import Path

import pytest

PAGES = Path(__file__).resolve().parents[2] / "pages"


@pytest.fixture(scope="session")
def real_pages() -> dict[str, str]:
    return {path.name: path.read_text(encoding="utf-8") for path in sorted(PAGES.glob("*.html"))}
