"""Equations and prose that extractors keep, on the same real pages: ours beside lynx, trafilatura, inscriptis and jusText.

    python -m venv /tmp/peer && /tmp/peer/bin/pip install trafilatura==2.3.1 inscriptis==2.7.6 jusText==3.0.2 lxml_html_clean latex2mathml==3.81.1
    PYTHONPATH=. python benchmarks/against_extractors.py data/debian /tmp/peer/bin/python [PAGES]

Pages of packages that scripts/debian_warc.py unpacked, PAGES of each (15). Every equation is written in each notation,
MathML by latex2mathml, which draws it truly. Bare MathML has no TeX to find again: there the TeX that comes out is
turned into MathML once more, and counts where that is the same. Prose: paragraphs of a page's body of eight words and
more without equations that stand in the text whole, signs and blanks aside. Speeds: CPU time, children's included.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import data_stages
import lxml.html
from data_stages import MATH, as_image, as_script, cpu_s, pages_with_equations, tex_in

from data_mix.curate.equations import Page, markup_characters, surviving
from data_mix.curate.steps.html import by_lynx, by_resiliparse

EACH, FEWEST_WORDS = 15, 8
PEERS = """
import json, sys, time
import inscriptis, justext, latex2mathml.converter, trafilatura
given = json.load(open(sys.argv[1]))
def mathml(tex):
    try:
        return latex2mathml.converter.convert(tex)
    except Exception:
        return ""
stop = justext.get_stoplist("English")
peers = {
    "trafilatura": lambda h: trafilatura.extract(h, output_format="markdown", favor_recall=True) or "",
    "inscriptis": inscriptis.get_text,
    "jusText": lambda h: "\\n".join(p.text for p in justext.justext(h.encode(), stop) if not p.is_boilerplate),
}
out = {"mathml": [mathml(tex) for tex in given.get("tex", [])], "texts": {}}
for name, read in peers.items():
    for notation, pages in given.get("pages", {}).items():
        began = time.process_time()
        texts = [read(html) for html in pages]
        out["texts"].setdefault(notation, {})[name] = [texts, time.process_time() - began]
json.dump(out, open(sys.argv[2], "w"))
"""


def asked(python: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the peers' environment makes of it."""
    with tempfile.TemporaryDirectory() as place:
        told, made = Path(place) / "told.json", Path(place) / "made.json"
        told.write_text(json.dumps(given))
        subprocess.run([python, "-c", PEERS, str(told), str(made)], check=True)
        return dict(json.loads(made.read_text()))


def writers(drawn: Mapping[str, str]) -> dict[str, Callable[[re.Match[str]], str]]:
    """Notation -> what stands in an equation's place."""

    def bare(match: re.Match[str]) -> str:
        found = tex_in(match[3])
        return drawn.get(found[0]) or match[0] if found else match[0]

    def with_tex(match: re.Match[str]) -> str:
        found, math = tex_in(match[3]), bare(match)
        if found is None or not math.startswith("<math"):
            return match[0]
        note = f'<annotation encoding="application/x-tex">{data_stages.escape.escape(found[0])}</annotation>'
        inner = re.sub(r"^<math[^>]*>|</math>$", "", math)
        return f"<math><semantics>{inner}{note}</semantics></math>"

    def katex(match: re.Match[str]) -> str:
        math = with_tex(match)
        if not math.startswith("<math"):
            return match[0]
        signs = re.sub(r"<annotation.*?</annotation>|<[^>]+>", "", math)
        shown = (
            f'<span class="katex-html" aria-hidden="true"><span class="mord">{signs}</span></span>'
        )
        return f'<span class="katex"><span class="katex-mathml">{math}</span>{shown}</span>'

    return {
        **{"text": lambda match: match[0], "script": as_script, "katex": katex},
        **{"mathml": with_tex, "image": as_image, "bare": bare},
    }


def same(mathml: str) -> str:
    """MathML without blanks, groups and attributes."""
    return re.sub(r"\s+|</?mrow>|(?<=<m)([a-z]+)[^>/]*(?=/?>)", r"\1", mathml)


def back_again(
    python: str,
    read: Sequence[Sequence[str]],
    wanted: Sequence[Sequence[str]],
    drawn: Mapping[str, str],
) -> int:
    """How many wanted equations' MathML comes out of the TeX that was read of their page, each as often as it stands."""
    tex = sorted({one for own in read for one in own})
    made = dict(zip(tex, asked(python, {"tex": tex})["mathml"], strict=True))
    found = 0
    for own, there in zip(read, wanted, strict=True):
        got = Counter(same(made[one]) for one in own)
        found += (got & Counter(same(drawn[one]) for one in there)).total()
    return found


def paragraphs(html: str) -> list[str]:
    """The prose of a page's body: letters and digits of its paragraphs."""
    body = lxml.html.document_fromstring(html).xpath("//div[@role='main' or @class='body']")
    found = (p for one in body[:1] for p in one.xpath(".//p[not(.//*[contains(@class, 'math')])]"))
    texts = (p.text_content() for p in found)
    return [signs_off(text) for text in texts if len(text.split()) >= FEWEST_WORDS]


def signs_off(text: str) -> str:
    """Letters and digits alone."""
    return re.sub(r"[\W_]+", "", text).lower()


def ours(pages: Sequence[str]) -> dict[str, tuple[list[str], float]]:
    """Renderer -> texts, and CPU seconds."""
    out = {}
    for name, prepared, render in (
        ("lynx alone", False, by_lynx), ("pre-pass + lynx", True, by_lynx),
        ("pre-pass + resiliparse", True, by_resiliparse), ("resiliparse alone", False, by_resiliparse),
    ):  # fmt: skip
        began = cpu_s()
        texts = [render(Page(html).html if prepared else html) for html in pages]
        out[name] = (texts, cpu_s() - began)
    return out


def main() -> None:
    """All extractors on all notations."""
    folder, python = Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "python"
    found = subprocess.run([python, "-c", "import trafilatura, inscriptis, justext, latex2mathml"], capture_output=True, check=False)  # fmt: skip
    if found.returncode:
        print(
            f"{python} lacks a peer ({found.stderr.decode().strip().splitlines()[-1]}); nothing is measured"
        )
        return
    data_stages.PER_PACKAGE = int(sys.argv[3]) if len(sys.argv) > 3 else EACH
    pages = pages_with_equations(folder)
    tex = sorted({one for _, own in pages for one in own})
    made = asked(python, {"tex": tex})["mathml"]
    drawn = {one: math for one, math in zip(tex, made, strict=True) if math}
    # What latex2mathml cannot write is in no notation.
    equations = [[one for one in own if one in drawn] for _, own in pages]
    total = sum(map(len, equations))
    print(
        f"{len(pages)} pages, {total:,} equations ({sum(len(o) for _, o in pages) - total} that latex2mathml does not write left out)"
    )
    written = {
        notation: [MATH.sub(write, html) for html, _ in pages]
        for notation, write in writers(drawn).items()
    }
    peers = asked(python, {"pages": written})["texts"]
    for notation, htmls in written.items():
        size = sum(map(len, htmls)) / 1e6
        for name, (texts, seconds) in {**ours(htmls), **peers[notation]}.items():
            kept = sum(map(surviving, equations, texts))
            markup = sum(map(markup_characters, texts)) / max(sum(map(len, texts)), 1)
            more = ""
            if notation == "text":
                prose = [
                    (p, signs_off(t))
                    for (h, _), t in zip(pages, texts, strict=True)
                    for p in paragraphs(h)
                ]
                more = f", prose {sum(p in t for p, t in prose) / len(prose):.4f} of {len(prose):,} paragraphs"
            print(
                f"  {notation}, {name}: recall {kept / total:.4f}, markup {markup:.2%}, {size / seconds:.1f} MB/s{more}",
                flush=True,
            )
    read = [Page(html).found for html in written["bare"]]
    back = back_again(python, read, equations, drawn)
    print(
        f"  bare, by pandoc in the pre-pass: {back:,} of {total:,} the same MathML again ({back / total:.4f})"
    )


if __name__ == "__main__":
    main()
