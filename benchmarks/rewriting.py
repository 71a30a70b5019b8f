"""What the gate of step `rewrite` catches, and what it refuses without need, on real pages (docs/data.md).

    PYTHONPATH=. python benchmarks/rewriting.py data/pages.warc.gz

Pages with equations, as lynx shows them, in pieces of 2,000 tokens, 150 of them; to each piece every fault and every innocent
change of tests/rewritings.py once. "frame": the lines that resiliparse takes for the main content of the page, and
those with equations and code; where it leaves out a sentence of the matter, the refusal is right.
"""

import random
import re
import sys
import time
from collections import Counter

from data_mix.curate.config import WarcSource
from data_mix.curate.equations import Page
from data_mix.curate.inputs import open_input
from data_mix.curate.steps.html import by_lynx, by_resiliparse
from data_mix.faithful import pieces, unfaithful
from tests.rewritings import EQUATION, FAULTS, INNOCENT

TOKENS, PIECES, SEED = 2000, 150, 3


def squeezed(text: str) -> str:
    """Letters, digits and signs without blanks, bullets and Sphinx's marks."""
    return re.sub(r"[\s¶*•+|]+", "", text)


def without_frame(piece: str, main: str) -> str:
    """The piece's lines that are in the main content, and those that must stay."""
    kept = []
    for block in piece.split("\n\n"):
        must = bool(EQUATION.search(block)) or ">>>" in block
        lines = [x for x in block.split("\n") if must or (squeezed(x) and squeezed(x) in main)]
        if lines:
            kept.append("\n".join(lines))
    return "\n\n".join(kept)


def main() -> None:
    """Count by kind, and print what was missed."""
    source = open_input(WarcSource(type="warc", path=sys.argv[1]))
    found = list[tuple[str, str]]()
    for unit in source.units(50):
        for row in source.rows(unit):
            page = Page(row["html"]) if "unreadable" not in row else None
            if page is not None and page.found:
                whole = squeezed(by_resiliparse(page.html))
                found += [(piece, whole) for piece in pieces(by_lynx(page.html), TOKENS)]
    random.Random(SEED).shuffle(found)
    found = found[:PIECES]
    rng, caught, planted = random.Random(SEED), Counter[str](), Counter[str]()
    let, tried, why, asked, began = (
        Counter[str](),
        Counter[str](),
        Counter[str](),
        0,
        time.process_time(),
    )
    for piece, whole in found:
        for kind, plant in FAULTS.items():
            made = plant(piece, rng)
            if made is not None:
                reason = unfaithful(piece, made)
                planted[kind] += 1
                caught[kind] += bool(reason)
                asked += 1
                if not reason:
                    print(f"MISSED {kind}\n--- {piece[:3000]}\n+++ {made[:3000]}")
        for kind, change in [
            *INNOCENT.items(),
            ("frame left out", lambda x, r, w=whole: without_frame(x, w)),
        ]:  # type: ignore[list-item]
            reason = unfaithful(piece, change(piece, rng))
            tried[kind] += 1
            let[kind] += not reason
            why[f"{kind}: {reason}"] += bool(reason)
            asked += 1
    spent = 1000 * (time.process_time() - began) / asked
    print(
        f"{len(found)} pieces, {sum(len(piece) for piece, _ in found):,} characters, {spent:.1f} ms a verdict"
    )
    for kind in FAULTS:
        print(f"  {kind}: {caught[kind]} of {planted[kind]} caught")
    print(f"all: {sum(caught.values())} of {sum(planted.values())}")
    for kind in tried:
        print(f"  {kind}: {let[kind]} of {tried[kind]} let through")
    print({reason: number for reason, number in why.items() if number})


if __name__ == "__main__":
    main()
