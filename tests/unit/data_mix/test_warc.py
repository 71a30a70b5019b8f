"""WARC files in every state: whatever can be read is, and the rest is counted."""

import gzip
import random
import zlib
from pathlib import Path
from typing import Any

import pytest

from data_mix.curate.config import WarcSource
from data_mix.curate.debian import numbers_of, pages_of, unpack, write_warc
from data_mix.curate.warc import WarcInput, decoded
from tests.data_stages import data_of, rows_of, run_stages
from tests.warc import HTML, warc_of
from workbench.errors import UserError

_RNG = random.Random(0)
BODIES = [_RNG.randbytes(5_000).hex().encode() for _ in range(3)]
PLAIN = warc_of([(f"http://a/{n}", body, HTML) for n, body in enumerate(BODIES)], packed=False)
PACKED = warc_of([(f"http://a/{n}", body, HTML) for n, body in enumerate(BODIES)])
# Where the second record begins.
SECOND = {"plain": PLAIN.index(b"WARC/1", 100), "packed": PACKED.index(b"\x1f\x8b\x08", 100)}


def read(path: Path, data: bytes, *, rows_per_shard: int = 2, **more: Any) -> list[str]:
    """What became of each record: its length, or why it cannot be read."""
    path.write_bytes(data)
    opened = WarcInput(WarcSource(type="warc", path=str(path), **more))
    units = opened.units(rows_per_shard)
    rows = [row for unit in units for row in opened.rows(unit)]
    assert len(rows) == sum(unit.count or 0 for unit in units)
    return [row.get("unreadable") or str(len(row["html"])) for row in rows]


@pytest.mark.parametrize("rows_per_shard", [1, 2, 5])
@pytest.mark.parametrize("state", ["plain", "packed"])
def test_records_are_read_from_the_middle_of_a_file(
    state: str, rows_per_shard: int, tmp_path: Path
) -> None:
    data = PLAIN if state == "plain" else PACKED
    found = read(tmp_path / "a.warc.gz", data, rows_per_shard=rows_per_shard)
    assert found == ["10000"] * 3


@pytest.mark.parametrize(
    ("data", "found"),
    [
        (PLAIN[:-2000], ["10000", "10000", "cut short"]),
        (PACKED[:-2000], ["10000", "10000", "cut short"]),
        (PACKED[:5], []),
        (b"", []),
        (b"no WARC at all", ["damaged record"]),
        (gzip.compress(b"no WARC at all"), ["damaged record"]),
        (PACKED[:900] + bytes(50) + PACKED[950:], ["damaged record", "10000", "10000"]),
        # 50 bytes put between the first two: the gap is one record of its own.
        (
            PACKED[: SECOND["packed"]] + b"z" * 50 + PACKED[SECOND["packed"] :],
            ["10000", "damaged record", "10000", "10000"],
        ),
        (
            PLAIN[: SECOND["plain"]] + b"XARC" + PLAIN[SECOND["plain"] + 4 :],
            ["10000", "damaged record", "10000"],
        ),
    ],
    ids=["plain cut", "packed cut", "only a head", "empty", "text", "packed text", "flipped", "gap",
         "no magic"],
)  # fmt: skip
def test_damage_costs_the_records_that_it_touches(
    data: bytes, found: list[str], tmp_path: Path
) -> None:
    for rows_per_shard in (1, 5):
        assert read(tmp_path / "a.warc.gz", data, rows_per_shard=rows_per_shard) == found


def test_sizes_are_bounded_before_anything_is_unpacked(tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(30 * 2**20))
    assert len(bomb) < 40_000
    pages = [
        ("http://a/", b"<p>small", HTML),
        ("http://a/large", b"x" * 3000, HTML),
        ("http://a/bomb", bomb, {**HTML, "Content-Encoding": "gzip"}),
        ("http://a/zipped", gzip.compress(b"<p>tiny"), {**HTML, "Content-Encoding": "gzip"}),
        ("http://a/deflated1", zlib.compress(b"<p>tiny"), {**HTML, "Content-Encoding": "deflate"}),
        ("http://a/unzipped12", b"<p>bare", {**HTML, "Content-Encoding": "gzip"}),
        ("http://a/brotli123456", b"\x0b\x02", {**HTML, "Content-Encoding": "br"}),
        ("http://a/picture12345678", b"GIF89a", {"Content-Type": "image/gif"}),
    ]
    found = read(tmp_path / "a.warc.gz", warc_of(pages), most_bytes=2000)
    small = ["8", "too large", "too large", "7", "7", "7", "encoding br", "not HTML"]
    assert found == small
    # The bomb as a member of the WARC itself: 30 MB in 30 kB.
    whole = warc_of([("http://a/", bytes(30 * 2**20), HTML), ("http://a/b", b"<p>b", HTML)])
    assert read(tmp_path / "b.warc.gz", whole, most_bytes=2000) == ["too large", "4"]


def in_chunks(body: bytes, size: int) -> bytes:
    """By RFC 9112, 7.1, one chunk with an extension."""
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    chunks = [b"%X\r\n%s\r\n" % (len(part), part) for part in parts]
    return b"".join(chunks).replace(b"\r\n", b";a=b\r\n", 1) + b"0\r\nDate: none\r\n\r\n"


@pytest.mark.parametrize(
    ("body", "headers", "found"),
    [
        (in_chunks(b"<p>twenty characters", 7), {}, "20"),
        (in_chunks(gzip.compress(b"<p>twenty characters"), 7), {"Content-Encoding": "gzip"}, "20"),
        (gzip.compress(b"<p>twenty characters"), {"Content-Encoding": "gzip"}, "20"),
        (b"<p>joined by the crawl", {}, "22"),
        (in_chunks(b"<p>twenty characters", 7)[:-15], {}, "cut short"),
        (in_chunks(b"<p>twenty characters", 7)[:10], {}, "cut short"),
        (b"4\r\n<p>twenty\r\n0\r\n\r\n", {}, "damaged record"),
        (b"4\r\n<p>t\r\nwenty\r\n0\r\n\r\n", {}, "damaged record"),
    ],
)  # fmt: skip
def test_chunks_are_joined_before_a_body_is_unpacked(
    body: bytes, headers: dict[str, str], found: str, tmp_path: Path
) -> None:
    chunked = {**HTML, "Transfer-Encoding": "Chunked", **headers}
    assert read(tmp_path / "a.warc.gz", warc_of([("http://a/", body, chunked)])) == [found]


def test_answers_that_are_no_page_say_so(tmp_path: Path) -> None:
    statuses = ("200 OK", "404 Not Found", "301 Moved Permanently")
    pages = [("http://a/", b"<p>Sorry", {**HTML, ":status": status}) for status in statuses]
    assert read(tmp_path / "a.warc.gz", warc_of(pages)) == ["8", "status 404", "status 301"]


@pytest.mark.parametrize(
    ("body", "charset"),
    [
        ("größer".encode(), "latin-1"),
        ("größer".encode("latin-1"), "latin-1"),
        ("größer".encode("latin-1"), None),
        ("größer".encode("latin-1"), "no-such-charset"),
        ('<meta charset="windows-1252">größer'.encode("cp1252"), None),
        ("größer".encode("utf-8-sig"), None),
    ],
)
def test_pages_are_decoded_by_what_they_are(body: bytes, charset: str | None) -> None:
    assert decoded(body, charset).endswith("größer")


def test_the_funnel_of_real_pages_counts_every_row(
    tmp_path: Path, real_pages: dict[str, str]
) -> None:
    pages = [(f"http://a/{name}", html.encode(), HTML) for name, html in real_pages.items()]
    escaping = ("http://a/../../etc/passwd", b"<p>" + b"word " * 200, HTML)
    other = [escaping, ("http://a/gif-gif-gif", b"GIF89a", {"Content-Type": "image/gif"})]
    (tmp_path / "a.warc.gz").write_bytes(warc_of([*pages, *other])[:-3])
    steps = [
        {"type": "equations", "least": 1, "bare": "leave"},
        {"type": "html", "by": "resiliparse"},
        {"type": "fix_text"},
    ]
    stage = {
        "kind": "curate",
        "input": {"type": "warc", "path": str(tmp_path / "a.warc.gz")},
        "steps": steps,
    }
    run_stages(tmp_path / "run", {"pages": stage})
    data = data_of(tmp_path / "run", "pages")
    assert data["removed"] == {"input: not HTML": 1, "equations: too few equations": 1}
    rows = rows_of(tmp_path / "run", "pages")
    assert [row["url"] for row in rows] == [url for url, _, _ in pages]
    assert "## By host\n\n| | rows |\n| --- | --- |\n| a | 2 |" in (tmp_path / "run/pages/README.md").read_text()  # fmt: skip
    # 16 and 7 by the pages' own markup; both have one more that Sphinx wrote as a plain class.
    counts = data["counts"]
    assert counts["equations/equations"] == counts["html/equations before"] >= 23
    assert counts["html/equations after"] == counts["html/equations before"]
    assert len(rows[0]["equations"]) + len(rows[1]["equations"]) == counts["equations/equations"]


def test_the_builder_names_what_it_cannot_take(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'python-mpmath-doc'"):
        numbers_of(["python-mpmath=3"])
    with pytest.raises(UserError, match="PACKAGE=N"):
        numbers_of(["python-mpmath-doc=none"])
    with pytest.raises(UserError, match="holds no pages"):
        pages_of(tmp_path, "python-mpmath-doc")


def test_the_builder_writes_the_same_file_twice(tmp_path: Path) -> None:
    folder = tmp_path / "usr/share/doc/python-mpmath-doc"
    folder.mkdir(parents=True)
    for name in "abc":
        (folder / f"{name}.html").write_text(f"<p>{name}</p>")
    (folder / "out.html").symlink_to("/etc/hostname")
    for target in ("one", "two"):
        lines = write_warc(tmp_path / target, tmp_path, {"python-mpmath-doc": 9})
    assert lines[0] == "python-mpmath-doc: 3 pages, 0.0 MB"
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert read(tmp_path / "a.warc.gz", (tmp_path / "one").read_bytes()) == ["8"] * 3


def test_a_package_of_another_hash_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(command: list[str], problem: str, cwd: Path | None = None) -> None:
        if cwd is not None:
            (cwd / "a.deb").write_bytes(b"other")

    monkeypatch.setattr("data_mix.curate.debian._run", run)
    with pytest.raises(UserError, match="is not python-mpmath-doc 1.2.1-2 of Debian 12"):
        unpack({"python-mpmath-doc": 1}, tmp_path)
    unpack({"python-mpmath-doc": 1}, tmp_path, any_version=True)
