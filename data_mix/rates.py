"""What data stages cost at a size: bytes a second of one core. Imports nothing heavy.

Rates of pages and duplicates were measured on two cores that other work shared, so that a plan from them is on
the dear side. That of `score` and the two ratios below are estimates. A step without a rate is written as "-" and
is in no sum.
"""

from collections.abc import Sequence

from pydantic import Field

from workbench.load import DataLoad
from workbench.schema import Section

# Step -> bytes of its input a second and core. equations and html: the pre-pass with lynx 0.9 to 1.3 MB/s,
# resiliparse behind it 2 to 5; dedup: 1.9; of 300 and 841 real pages. code: 3,319 files of Go, Rust and Python.
RATES = {
    "equations+html lynx": 1.1e6,
    "equations+html resiliparse": 3.0e6,
    "dedup": 1.9e6,
    "code": 0.5e6,
    "score": 2.0e6,
}
# Estimates: text is a fifth of its page's HTML, and Parquet with zstd a third of its text.
TEXT_OF_HTML, PARQUET_OF_TEXT = 0.2, 0.33


class Expected(Section):
    """How much a stage is going to read, for its plan alone."""

    rows: int = Field(ge=1)
    """Rows."""
    row_bytes: int = Field(ge=1)
    """Mean bytes of a row: of its HTML, or of its text."""
    from_network: bool = False
    """Whether they are fetched from elsewhere (a crawl's object store); shards of other stages are not."""


def load_of(
    expected: Expected | None, steps: Sequence[str], *, kept: float = 1.0
) -> tuple[DataLoad, ...]:
    """The load of a stage with these steps, of those that have a rate. kept: share of the bytes written.

    >>> load_of(Expected(rows=10, row_bytes=110_000), ["equations+html lynx"])[0].core_seconds
    1.0
    """
    if expected is None:
        return ()
    size = expected.rows * expected.row_bytes
    rates = [RATES[step] for step in steps if step in RATES]
    seconds = sum(size / rate for rate in rates) if rates else None
    written = round(size * kept * PARQUET_OF_TEXT)
    moved = size + written if expected.from_network else 2 * written
    return (DataLoad(" + ".join(steps), expected.rows, size, seconds, written, moved),)
