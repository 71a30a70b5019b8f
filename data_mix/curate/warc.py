"""WARC files as rows of HTML: the responses of a crawl, whatever state they are in.

A record that is cut short, damaged, too large, no HTML or no page (`status 404`) is a row that says so (`unreadable`), and so it
is counted; it ends nothing. Sizes are bounded before anything is unpacked, so a gzip bomb costs time alone.
"""

import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from data_mix.curate.config import WarcSource, input_columns
from data_mix.files import matching_files
from data_mix.scatter import Unit
from data_mix.shard_columns import Columns, Row

_GZIP = b"\x1f\x8b\x08"
_PLAIN = b"WARC/1."
_BLOCK = 1 << 20
# The line before a chunk: its size, and extensions that nobody reads.
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r\n")
_HTML = ("text/html", "application/xhtml+xml")
_INFLATE = {"gzip": 16 + zlib.MAX_WBITS, "x-gzip": 16 + zlib.MAX_WBITS, "deflate": zlib.MAX_WBITS}


class WarcInput:
    """The responses in WARC files; a unit is a run of records of one file."""

    def __init__(self, config: WarcSource) -> None:
        self._config = config

    @property
    def columns(self) -> Columns:
        """See Input."""
        return input_columns(self._config) or {}

    def units(self, rows_per_shard: int) -> list[Unit]:
        """See Input. Passes over each file once, to learn where its runs begin."""
        units: list[Unit] = []
        for path in matching_files(self._config.path, name="input"):
            starts = [found.offset for found in _responses(path, 0)]
            for first in range(0, len(starts), rows_per_shard):
                count = min(rows_per_shard, len(starts) - first)
                units.append(Unit(len(units), str(path), starts[first], count))
        return units

    def rows(self, unit: Unit) -> Iterator[Row]:
        """See Input."""
        path = Path(unit.place)
        for number, found in enumerate(_responses(path, unit.start)):
            if number == unit.count:
                return
            yield self._row(path, found)

    def _row(self, path: Path, found: "_Found") -> Row:
        place = f"{path.name}#{found.offset}"
        row: Row = {"id": place, "url": "", "html": "", "source": place}
        if found.record is None:
            return {**row, "unreadable": "damaged record"}
        record = found.record
        row["url"] = str(record.headers.get("WARC-Target-URI", ""))
        row["id"] = str(record.headers.get("WARC-Record-ID", place)).strip("<>")
        try:
            html = _page(record, self._config.most_bytes)
        except _Unreadable as problem:
            return {**row, "unreadable": str(problem)}
        return {**row, "html": html}


class _Unreadable(Exception):
    """Why a response is not a page that can be read."""


def _page(record: Any, most_bytes: int) -> str:
    """The text of a response's HTML. Raises: _Unreadable."""
    headers = record.http_headers
    if headers and headers.status_code not in (None, 200):
        raise _Unreadable(f"status {headers.status_code}")
    if not _is_html(record.http_content_type):
        raise _Unreadable("not HTML")
    try:
        body = record.reader.read(most_bytes + 1)
    except OSError:
        raise _Unreadable("damaged record") from None
    if len(body) > most_bytes:
        raise _Unreadable("too large")
    if len(body) < record.content_length:
        raise _Unreadable("cut short")
    if headers and "chunked" in headers.get("Transfer-Encoding", "").lower():
        body = _joined(body)
    body = _unpacked(body, (headers.get("Content-Encoding", "") if headers else ""), most_bytes)
    return decoded(body, record.http_charset)


def _is_html(content_type: str | None) -> bool:
    return content_type is None or content_type.split(";")[0].strip().lower() in _HTML


def _joined(body: bytes) -> bytes:
    """The body without the chunks of its Transfer-Encoding (RFC 9112, 7.1): a size in hexadecimal before each.

    A body that begins with no size was joined by the crawl, which left the header.
    """
    if _CHUNK.match(body) is None:
        return body
    parts, place = list[bytes](), 0
    while found := _CHUNK.match(body, place):
        begin, size = found.end(), int(found[1], 16)
        if not size:
            return b"".join(parts)
        place = begin + size
        parts.append(body[begin:place])
        if not b"\r\n".startswith(body[place : place + 2]):
            raise _Unreadable("damaged record")
        place += 2
    raise _Unreadable("damaged record" if b"\n" in body[place:] else "cut short")


def _unpacked(body: bytes, encoding: str, most_bytes: int) -> bytes:
    """The body without its Content-Encoding; crawls often write it unpacked and leave the header."""
    encoding = encoding.strip().lower()
    packed = encoding in _INFLATE and (encoding == "deflate" or body.startswith(_GZIP[:2]))
    if encoding in ("", "identity") or (encoding in _INFLATE and not packed):
        return body
    if encoding not in _INFLATE:
        raise _Unreadable(f"encoding {encoding:.20}")
    try:
        unpacked = zlib.decompressobj(_INFLATE[encoding]).decompress(body, most_bytes + 1)
    except zlib.error:
        if encoding == "deflate":
            return body
        raise _Unreadable("damaged record") from None
    if len(unpacked) > most_bytes:
        raise _Unreadable("too large")
    return unpacked


def decoded(body: bytes, charset: str | None) -> str:
    """The text of a page: UTF-8 where it is that, else what it says it is, else the likeliest.

    What HTTP says is wrong so often that valid UTF-8 wins over it: other text is almost never valid UTF-8
    by chance.
    """
    # Both take time to import, and only pages that are read need them.
    from resiliparse.parse.encoding import bytes_to_str, detect_encoding  # noqa: PLC0415

    try:
        return body.decode("utf-8-sig")
    except UnicodeDecodeError:
        guess = charset or detect_encoding(body, from_html_meta=True) or "latin-1"
    try:
        return str(bytes_to_str(body, guess, errors="replace"))
    except LookupError:  # a charset that there is not
        return str(bytes_to_str(body, detect_encoding(body) or "latin-1", errors="replace"))


@dataclass(frozen=True)
class _Found:
    """A response at a byte offset; record: None where it is damaged."""

    offset: int
    record: Any


def _responses(path: Path, start: int) -> Iterator[_Found]:
    """The responses from an offset on. After damage it goes on at the next record that can be read."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType  # noqa: PLC0415 - see decoded

    with path.open("rb") as file:
        magic = _GZIP if file.read(3) == _GZIP else _PLAIN
        offset: int | None = start
        while offset is not None:
            here = offset  # of what is read next; where that fails, of the damage
            file.seek(here)
            try:
                for record in ArchiveIterator(file, record_types=WarcRecordType.response):
                    here = record.stream_pos
                    yield _Found(here, record)
                    here += 1
                return
            except OSError:
                yield _Found(here, None)
                offset = _next_record(file, here + 1, magic)


def _next_record(file: IO[bytes], offset: int, magic: bytes) -> int | None:
    """Where the next record begins at or after an offset; None: nowhere."""
    file.seek(offset)
    held, base = b"", offset
    while block := file.read(_BLOCK):
        held += block
        place = held.find(magic)
        while place != -1:
            if _begins_record(file, base + place, magic):
                return base + place
            place = held.find(magic, place + 1)
        base += len(held) - len(magic)
        held = held[-len(magic) :]
        file.seek(base + len(held))
    return None


def _begins_record(file: IO[bytes], offset: int, magic: bytes) -> bool:
    file.seek(offset)
    head = file.read(4096)
    if magic == _GZIP:
        try:
            head = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(head, 64)
        except zlib.error:
            return False
    return head.startswith(_PLAIN)
