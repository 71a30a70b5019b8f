"""Decisions on real licence texts: allow-list against what packages say of themselves (docs/data.md).

    python benchmarks/licences.py data/spdx-full.json                       the packages of this environment, and Debian's
    python benchmarks/licences.py data/spdx-full.json SITE-PACKAGES FOLDER  of others: FOLDER/*/copyright

Truth of a wheel with one licence file: its SPDX expression. Of a stanza of a Debian `copyright` file: the short
name it bears. Texts that are the same are counted once. A forbidden text that is let through is printed whole.
"""

import re
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path

from data_mix.curate.config import PERMISSIVE
from data_mix.curate.licences import Licences, read_texts, spdx_allowed

# Debian's short names that are not SPDX's, and names that are not on the list.
NAMES = {
    "expat": "MIT", "apache-2": "Apache-2.0", "boost-1.0": "BSL-1.0", "psf-2": "PSF-2.0", "cc0": "CC0-1.0",
    "bsd-2": "BSD-2-Clause", "bsd-3": "BSD-3-Clause",
}  # fmt: skip
OTHERS = re.compile(
    r"[al]?gpl|gfdl|mpl|epl|cddl|cc-by|artistic|ofl|bsd-4|lppl|eupl|openssl|sleepycat|qpl|ijg|json|ftl|openldap|w3c",
    re.IGNORECASE,
)
STANZA = re.compile(r"^License:\s*(\S[^\n]*)\n((?:[ \t].*(?:\n|$))+)", re.MULTILINE)


def wheels(site: Path) -> Iterator[tuple[str, str, bool]]:
    """(what, text, whether it is allowed) of packages with one licence file."""
    for folder in sorted(site.glob("*.dist-info")):
        about = folder / "METADATA"
        said = HeaderParser().parsestr(about.read_text("utf-8")) if about.is_file() else {}
        expression = said.get("License-Expression")
        named = re.compile(r"(un)?licen[cs]e|copying|notice", re.IGNORECASE)
        files = [f for f in sorted(folder.rglob("*")) if f.is_file() and named.match(f.name)]
        if expression and len(files) == 1:
            text = files[0].read_text("utf-8", errors="replace")
            yield folder.name, text, spdx_allowed(expression, PERMISSIVE)


def stanzas(docs: Path) -> Iterator[tuple[str, str, bool]]:
    """The same of Debian's stanzas of one licence with a name that is known."""
    known, seen = {name.lower(): name for name in PERMISSIVE}, set[str]()
    for file in sorted(docs.glob("*/copyright")):
        whole = file.read_text("utf-8", errors="replace")
        for match in STANZA.finditer(whole if "copyright-format" in whole[:200] else ""):
            name = match[1].strip().lower()
            lines = ("" if x.strip() == "." else x.strip() for x in match[2].split("\n"))
            text = "\n".join(lines)
            same = " ".join(text.split())
            if len(text) < 40 or same in seen or re.search(r"\s(and|or)\s|,", name):
                continue
            seen.add(same)
            if name in known or name in NAMES or OTHERS.match(name):
                allowed = NAMES.get(name, known.get(name)) in PERMISSIVE
                yield f"{file.parent.name}: {name}", text, allowed


def main() -> None:
    """Decide on all of them, and say which decisions are other than the names."""
    texts, *rest = sys.argv[1:]
    site = Path(rest[0] if rest else sysconfig.get_paths()["purelib"])
    docs = Path(rest[1] if len(rest) > 1 else "/usr/share/doc")
    spdx = read_texts(texts)
    known = Licences(spdx, PERMISSIVE)
    own = [(name, text, name in PERMISSIVE) for name, text in sorted(spdx.items())]
    for title, cases in (("SPDX", own), ("wheels", [*wheels(site)]), ("Debian", [*stanzas(docs)])):
        counts, began = Counter[str](), time.process_time()
        for what, text, wanted in cases:
            found = known.of_text(text)
            allowed = bool(found) and all(one.allowed(PERMISSIVE) for one in found)
            counts["right" if allowed == wanted else "let through" if allowed else "removed"] += 1
            if allowed != wanted:
                print(f"  {what}: {', '.join(one.id for one in found) or 'unknown'}")
            if allowed and not wanted:
                print(text)
        speed = 1000 * (time.process_time() - began) / max(len(cases), 1)
        print(f"{title}: {len(cases)} texts, {dict(counts)}, {speed:.0f} ms a text")


if __name__ == "__main__":
    main()
