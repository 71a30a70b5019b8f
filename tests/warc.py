"""WARC files for tests, written by warcio."""

import io
from collections.abc import Mapping, Sequence

from warcio.statusandheaders import StatusAndHeaders
from warcio.warcwriter import WARCWriter

HTML = {"Content-Type": "text/html"}


def warc_of(pages: Sequence[tuple[str, bytes, Mapping[str, str]]], *, packed: bool = True) -> bytes:
    """A WARC with a response for each (url, body, HTTP headers); `:status` there is the status line."""
    made = io.BytesIO()
    writer = WARCWriter(made, gzip=packed)
    for url, body, headers in pages:
        status = headers.get(":status", "200 OK")
        lines = [(name, value) for name, value in headers.items() if name != ":status"]
        shown = StatusAndHeaders(status, lines, protocol="HTTP/1.1")
        record = writer.create_warc_record(
            url,
            "response",
            payload=io.BytesIO(body),
            http_headers=shown,
            warc_headers_dict={
                "WARC-Record-ID": f"<urn:uuid:{len(url):08d}-0000-0000-0000-000000000000>",
                "WARC-Date": "2023-06-10T00:00:00Z",
            },
        )
        writer.write_record(record)
    return made.getvalue()
