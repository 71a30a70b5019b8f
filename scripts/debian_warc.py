"""Make a WARC of real pages from Debian's documentation packages: what a crawl of them would hold.

python scripts/debian_warc.py data/pages.warc.gz
python scripts/debian_warc.py data/pages.warc.gz --pages python-mpmath-doc=36 --pages python-scipy-doc=100
python scripts/debian_warc.py data/pages.warc.gz --from unpacked/    (packages unpacked there: dpkg-deb -x)

Packages are downloaded by `apt-get download`, unpacked beside the WARC and not installed; their hashes are
those of Debian 12 (--any-version takes others). All are BSD-licensed. The same packages give the same file.

Exit codes: 0 done, 2 the user's mistake.
"""

import argparse
import sys

try:
    from workbench.command import command
except ModuleNotFoundError:
    import wrong_python  # noqa: F401 - says so in one line, and ends

    raise


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "warc", metavar="FILE", help="the WARC to write, such as data/pages.warc.gz"
    )
    parser.add_argument(
        "--pages",
        metavar="PACKAGE=N",
        action="append",
        help="take N pages of a package (default: 300 of mpmath, QuTiP and SymPy)",
    )
    parser.add_argument("--from", dest="unpacked", metavar="FOLDER", help="packages unpacked there")
    parser.add_argument("--any-version", action="store_true", help="take packages of other hashes")


def run(args: argparse.Namespace) -> int:
    """Download what is missing, write, and say what is in it."""
    from pathlib import Path

    from data_mix.curate.debian import MINIATURE, numbers_of, unpack, write_warc

    target = Path(args.warc)
    pages = numbers_of(args.pages) if args.pages else MINIATURE
    folder = Path(args.unpacked) if args.unpacked else target.parent / "debian"
    if not args.unpacked:
        unpack(pages, folder, any_version=args.any_version)
    for line in write_warc(target, folder, pages):
        print(line)
    return 0


if __name__ == "__main__":
    sys.exit(command(run, arguments, __doc__))
