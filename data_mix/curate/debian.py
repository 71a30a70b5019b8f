"""Real pages for tests and the miniature: the HTML of Debian's documentation packages, as a WARC.

Which package, at which hash, stands here; the pages are read on the user's machine and are not part of this
repository. Pages of a package are chosen by the digests of their names, so that a few are a fair sample.
"""

import hashlib
import io
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from workbench.errors import UserError, unknown_name


@dataclass(frozen=True)
class Package:
    """A documentation package of Debian 12. sha256: of the .deb file."""

    version: str
    sha256: str
    license: str


PACKAGES: dict[str, Package] = {
    "python-mpmath-doc": Package(
        "1.2.1-2",
        "3895ea83b1edc71fae2a4be29522b9dd28daf6aad5293a2249d46742ffbbfeed",
        "BSD-3-Clause",
    ),
    "python-qutip-doc": Package(
        "4.7.1-2",
        "8d0b6f38de89e684dce972742b89fe0322dd32879eae2c514bc09633fdd7ae74",
        "BSD-3-Clause",
    ),
    "python-scipy-doc": Package(
        "1.10.1-2",
        "a237fdcef1675622f1a5d8a291c64feba140615130ee625554f94772d4ea3ad7",
        "BSD-3-Clause",
    ),
    "python-sklearn-doc": Package(
        "1.2.1+dfsg-1",
        "4e244556326064e87e7563e3e544c2288d44b5719db2d7b3a85c9a84ae93488d",
        "BSD-3-Clause",
    ),
    "python-sympy-doc": Package(
        "1.11.1-1",
        "2a1d50bd49738f0280308fc8d86d5fa5739dbc6391e1c754f4549bc3635e6a31",
        "BSD-3-Clause",
    ),
}
MINIATURE = {"python-mpmath-doc": 36, "python-qutip-doc": 110, "python-sympy-doc": 154}
"""300 pages with equations as MathJax text and as images, 45 MB to download."""
_DOWNLOAD_LIMIT_S = 600.0
# The time of a crawl that never was; a WARC must have one, and it must not change.
_DATE = "2023-06-10T00:00:00Z"


def numbers_of(given: Sequence[str]) -> dict[str, int]:
    """PACKAGE=N as a mapping. Raises: UserError."""
    found = {}
    for text in given:
        name, _, number = text.partition("=")
        if name not in PACKAGES:
            raise unknown_name("package", name, PACKAGES)
        if not number.isdecimal() or int(number) < 1:
            raise UserError(f"--pages {text!r}: write PACKAGE=N with a number of at least 1")
        found[name] = int(number)
    return found


def unpack(names: Mapping[str, int], folder: Path, *, any_version: bool = False) -> None:
    """Download and unpack packages into `folder`, each once.

    Raises: UserError where a program is missing, the network does not answer, or a hash is another one.
    """
    for name in names:
        done = folder / f".{name}"
        if done.exists():
            continue
        for program in ("apt-get", "dpkg-deb"):
            if shutil.which(program) is None:
                raise UserError(
                    f"{program} is not on this machine, so {name} cannot be fetched; unpack it elsewhere "
                    "and give --from FOLDER, or use a WARC of your own"
                )
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as place:
            deb = _downloaded(name, Path(place), any_version=any_version)
            _run(["dpkg-deb", "-x", str(deb), str(folder)], f"{deb.name} cannot be unpacked")
        done.touch()


def make_where_missing(target: Path, wanted: Mapping[str, int] | None = None) -> None:
    """A WARC of the miniature's pages, or of so many of each package, where it is not there yet. Raises:
    UserError as `numbers_of` and `unpack` do."""
    if not target.exists():
        names = numbers_of([f"{name}={n}" for name, n in (wanted or MINIATURE).items()])
        folder = target.parent / "debian"
        unpack(names, folder)
        write_warc(target, folder, names)


def _downloaded(name: str, place: Path, *, any_version: bool) -> Path:
    _run(["apt-get", "-q", "download", name], f"{name} cannot be downloaded", cwd=place)
    deb = next(place.glob("*.deb"), None)
    if deb is None:
        raise UserError(f"{name} cannot be downloaded; run `apt-get update`, or give --from FOLDER")
    with deb.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    wanted = PACKAGES[name]
    if found != wanted.sha256 and not any_version:
        raise UserError(
            f"{deb.name} is not {name} {wanted.version} of Debian 12 (sha256 {found[:16]}...); "
            "--any-version takes it as it is, and other figures follow"
        )
    return deb


def _run(command: list[str], problem: str, cwd: Path | None = None) -> None:
    try:
        done = subprocess.run(
            command, cwd=cwd, capture_output=True, timeout=_DOWNLOAD_LIMIT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{problem}: no answer in {_DOWNLOAD_LIMIT_S:.0f} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise UserError(f"{problem}: {said[-1][:200] if said else 'no reason given'}")


def pages_of(folder: Path, name: str, count: int | None = None) -> list[Path]:
    """Pages of an unpacked package, in an order that its files' names alone decide."""
    root = (folder / "usr/share/doc" / name).resolve()
    inside = (p for p in root.rglob("*.html") if p.is_file() and p.resolve().is_relative_to(root))
    found = sorted(
        {path.resolve() for path in inside},
        key=lambda path: hashlib.sha256(str(path.relative_to(root)).encode()).digest(),
    )
    if not found:
        raise UserError(f"{root} holds no pages; unpack {name} there with dpkg-deb -x")
    return found[:count]


def write_warc(target: Path, folder: Path, names: Mapping[str, int]) -> list[str]:
    """Write the pages as responses; a line a package. The file is equal to the bit every time."""
    from warcio.warcwriter import WARCWriter  # noqa: PLC0415 - only this script writes a WARC

    target.parent.mkdir(parents=True, exist_ok=True)
    half = target.with_name(f"{target.name}.part")
    lines = []
    with half.open("wb") as file:
        writer = WARCWriter(file, gzip=True)
        for name, count in names.items():
            pages = pages_of(folder, name, count)
            for path in pages:
                _write(writer, f"https://debian.example/{name}/{path.name}", path.read_bytes())
            size = sum(path.stat().st_size for path in pages)
            lines.append(f"{name}: {len(pages)} pages, {size / 1e6:.1f} MB")
    half.replace(target)
    return [*lines, f"{target}: {target.stat().st_size / 1e6:.1f} MB"]


def _write(writer: Any, url: str, body: bytes) -> None:
    from warcio.statusandheaders import StatusAndHeaders  # noqa: PLC0415 - see write_warc

    digest = hashlib.sha256(url.encode() + body).hexdigest()
    headers = {
        "WARC-Date": _DATE,
        "WARC-Record-ID": f"<urn:uuid:{uuid5(NAMESPACE_URL, digest)}>",
    }
    shown = [("Content-Type", "text/html"), ("Content-Length", str(len(body)))]
    writer.write_record(
        writer.create_warc_record(
            url,
            "response",
            payload=io.BytesIO(body),
            warc_headers_dict=headers,
            http_headers=StatusAndHeaders("200 OK", shown, protocol="HTTP/1.1"),
        )
    )
