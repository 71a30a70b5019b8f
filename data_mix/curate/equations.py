r"""Equations of a page as TeX in its text, before any renderer runs; and whether they are still there after.

The paper renders with lynx. lynx drops scripts, so MathJax's sources are lost, and it prints MathML's
elements; this pre-pass puts `\( ... \)` and `\[ ... \]` in their place.
Notations: MathJax 2 scripts (`math/tex`, `math/mml`), MathJax 3 and 4 containers (their assistive MathML),
KaTeX, MathML with a TeX annotation or `alttext`, MathML without (by pandoc), images whose `alt` is TeX.
TeX that stands in the text between MathJax's delimiters is left where it is, and counted.
"""

import json
import re
import subprocess
from collections.abc import Sequence

import lxml.html
from lxml import etree

_HAS_MARKUP = re.compile(
    r"math/(?:tex|mml)|katex|mjx-container|<(?:\w+:)?math[\s>]|<img[^>]*\balt=", re.IGNORECASE
)
_TEX_TYPE, _MML_TYPE = "math/tex", "math/mml"
_NAMED_MATH = re.compile(r"math|latex|\btex\b|equation", re.IGNORECASE)
# Where only the file's name speaks of mathematics, an alt text is TeX if it has a command, a script, ....
_LOOKS_LIKE_TEX = re.compile(r"\\[A-Za-z]+|[_^]|=|^[A-Za-z0-9]$|^\$.*\$$", re.DOTALL)
_DELIMITED = re.compile(r"\\\((.+?)\\\)|\\\[(.+?)\\\]", re.DOTALL)
_DOLLARS = re.compile(r"(?<![\\$])\$\$(?!\$)(.+?)(?<!\\)\$\$(?!\$)", re.DOTALL)
_RENDERS_DOLLARS = re.compile(r"mathjax|katex", re.IGNORECASE)
_CODE = ("script", "style", "pre", "code", "textarea", "noscript")
_SHOWN_TWICE = (
    "MathJax_Preview", "MathJax", "MathJax_Display", "MathJax_SVG", "MathJax_SVG_Display", "MathJax_CHTML",
    "MJXc-display", "katex-html",
)  # fmt: skip
_PANDOC = ["pandoc", "-f", "html", "-t", "json", "--sandbox"]
PANDOC_LIMIT_S = 60.0


class Page:
    """A page whose equations stand as TeX in its text.

    html: its HTML. found: the TeX of each equation, in order. by_notation: how many came from each.
    unread: MathML that could not be turned into TeX.
    """

    def __init__(self, html: str, *, pandoc: bool = True) -> None:
        self.by_notation: dict[str, int] = {}
        self.unread = 0
        self._pandoc = pandoc
        self._dollars = bool(_RENDERS_DOLLARS.search(html))
        self.html = html
        document = None
        if _HAS_MARKUP.search(html):
            document = parse(html)
            if document is not None and self._rewrite(document):
                self.html = lxml.html.tostring(document, encoding="unicode")
        self.found = self._in_text(document)
        written = sum(self.by_notation.values())
        if len(self.found) > written:
            self.by_notation["text"] = len(self.found) - written

    def _rewrite(self, document: lxml.html.HtmlElement) -> bool:
        changed = self._scripts(document)
        changed = self._katex(document) or changed
        changed = self._mathjax3(document) or changed
        changed = self._mathml(document) or changed
        return self._images(document) or changed

    def _put(
        self, element: lxml.html.HtmlElement, tex: str, *, display: bool, notation: str
    ) -> bool:
        tex = _bare(tex)
        if not tex or element.getparent() is None:
            return False
        span = lxml.html.Element("span")
        span.text = f"\\[{tex}\\]" if display else f"\\({tex}\\)"
        span.tail = element.tail
        element.getparent().replace(element, span)
        self.by_notation[notation] = self.by_notation.get(notation, 0) + 1
        return True

    def _scripts(self, document: lxml.html.HtmlElement) -> bool:
        changed = False
        for element in document.xpath("//script[starts-with(@type, 'math/')]"):
            kind = str(element.get("type"))
            display = "mode=display" in kind.replace(" ", "")
            source = element.text or ""
            if kind.startswith(_TEX_TYPE):
                _drop_rendered(element)
                put = self._put(element, source, display=display, notation="script")
                changed = put or changed
            elif kind.startswith(_MML_TYPE):
                _drop_rendered(element)
                inner = lxml.html.fragment_fromstring(source or "<i></i>", create_parent="span")
                inner.tail = element.tail
                element.getparent().replace(element, inner)
                changed = True
        return changed

    def _katex(self, document: lxml.html.HtmlElement) -> bool:
        changed = False
        for element in document.xpath(f"//*[{_has_class('katex')}]"):
            tex = _annotation(element)
            if tex is None:
                continue
            parent = element.getparent()
            display = parent is not None and "katex-display" in (parent.get("class") or "").split()
            changed = self._put(element, tex, display=display, notation="katex") or changed
        return changed

    def _mathjax3(self, document: lxml.html.HtmlElement) -> bool:
        """The containers become the MathML in them, which the next step reads."""
        changed = False
        for element in document.xpath("//mjx-container"):
            maths = element.xpath(".//mjx-assistive-mml//math | .//math")
            if not maths:
                continue
            math = maths[0]
            if element.get("display") == "true":
                math.set("display", "block")
            math.tail = element.tail
            element.getparent().replace(element, math)
            changed = True
        return changed

    def _mathml(self, document: lxml.html.HtmlElement) -> bool:
        changed, bare = False, []
        for element in document.xpath("//*[local-name() = 'math' or name() = 'm:math']"):
            tex = _annotation(element) or element.get("alttext")
            if tex is None:
                bare.append(element)
                continue
            display = element.get("display") == "block" or element.get("mode") == "display"
            changed = self._put(element, tex, display=display, notation="mathml") or changed
        if bare and self._pandoc:
            for element, tex in zip(bare, tex_of([_markup(e) for e in bare]), strict=True):
                display = element.get("display") == "block"
                if not tex:
                    self.unread += 1
                    continue
                changed = self._put(element, tex, display=display, notation="bare") or changed
        return changed

    def _images(self, document: lxml.html.HtmlElement) -> bool:
        changed = False
        for element in document.xpath("//img[@alt]"):
            tex = str(element.get("alt")).strip()
            by_class = _NAMED_MATH.search(element.get("class") or "")
            by_file = _NAMED_MATH.search(element.get("src") or "") and _LOOKS_LIKE_TEX.search(tex)
            if not (by_class or by_file):
                continue
            changed = self._put(element, tex, display=False, notation="image") or changed
        return changed

    def _in_text(self, document: lxml.html.HtmlElement | None) -> list[str]:
        """TeX between delimiters in what the page shows; not in its code."""
        if document is None:
            if "\\(" not in self.html and "\\[" not in self.html and "$$" not in self.html:
                return []
            document = parse(self.html)
            if document is None:
                return []
        text = _shown(document)
        if self._dollars:
            text = _DOLLARS.sub(lambda m: f"\\[{m[1]}\\]", text)
        found = (next(filter(None, match.groups())) for match in _DELIMITED.finditer(text))
        return [tex.strip() for tex in found if tex.strip()]


def parse(html: str) -> lxml.html.HtmlElement | None:
    """The page's tree, whatever it looks like; None where nothing is in it."""
    # As bytes: text with an encoding declaration of its own is refused. NUL ends libxml2's text.
    data = html.replace("\0", "").encode("utf-8", "replace")
    parser = lxml.html.HTMLParser(encoding="utf-8", huge_tree=True)
    try:
        document = lxml.html.document_fromstring(data, parser=parser)
    except (etree.ParserError, etree.XMLSyntaxError):
        return None
    return document


def _shown(document: lxml.html.HtmlElement) -> str:
    """The text of the page without scripts, styles and code."""
    parts: list[str] = []
    walk = etree.iterwalk(document, events=("start", "end"))
    for event, element in walk:
        if event == "end":
            parts.append(element.tail or "")
        elif element.tag in _CODE or not isinstance(element.tag, str):
            walk.skip_subtree()
        else:
            parts.append(element.text or "")
    return "".join(parts)


def _has_class(name: str) -> str:
    return f"contains(concat(' ', normalize-space(@class), ' '), ' {name} ')"


def _annotation(element: lxml.html.HtmlElement) -> str | None:
    found = element.xpath(".//*[local-name() = 'annotation'][contains(@encoding, 'tex')]")
    found = found or element.xpath(".//annotation[contains(@encoding, 'TeX')]")
    return str(found[0].text_content()) if found else None


def _markup(element: lxml.html.HtmlElement) -> str:
    return str(lxml.html.tostring(element, encoding="unicode", with_tail=False))


def _bare(tex: str) -> str:
    """TeX without the comments and delimiters that it is wrapped in."""
    tex = tex.strip().removeprefix("<![CDATA[").removesuffix("]]>")
    tex = re.sub(r"^%\s*<!\[CDATA\[|%\s*\]\]>$", "", tex.strip()).strip()
    for opens, closes in (("\\(", "\\)"), ("\\[", "\\]"), ("$$", "$$"), ("$", "$")):
        long = len(tex) > len(opens) + len(closes)
        if long and tex.startswith(opens) and tex.endswith(closes):
            return tex[len(opens) : -len(closes)].strip()
    return tex


def _drop_rendered(script: lxml.html.HtmlElement) -> None:
    """What MathJax has put before its source: a preview, and the equation drawn from spans."""
    before = script.getprevious()
    while before is not None and set((before.get("class") or "").split()) & set(_SHOWN_TWICE):
        if (before.tail or "").strip():
            return
        gone, before = before, before.getprevious()
        gone.drop_tree()


def tex_of(maths: Sequence[str]) -> list[str]:
    """TeX of each MathML element by pandoc, in one call; empty where pandoc makes none of it.

    Raises: RuntimeError where pandoc fails, subprocess.TimeoutExpired where it takes too long.
    """
    # A word first: pandoc drops empty paragraphs, and each must have its place.
    html = "".join(f"<p>x {math}</p>\n" for math in maths)
    done = subprocess.run(
        _PANDOC, input=html.encode(), capture_output=True, timeout=PANDOC_LIMIT_S, check=False
    )
    if done.returncode:
        raise RuntimeError(f"pandoc: {done.stderr.decode(errors='replace').strip()[:200]}")
    blocks = json.loads(done.stdout)["blocks"]
    if len(blocks) != len(maths):
        raise RuntimeError(f"pandoc made {len(blocks)} paragraphs of {len(maths)}")
    return [_math_of(block) for block in blocks]


def _math_of(block: dict[str, object]) -> str:
    inner = block.get("c")
    parts = inner if isinstance(inner, list) else []
    found = [part["c"][1] for part in parts if isinstance(part, dict) and part.get("t") == "Math"]
    return " ".join(str(tex).strip() for tex in found)


_BLANKS = re.compile(r"\s+")


def squeezed(text: str) -> str:
    """Text without blanks and dollar signs, in which an equation is looked for."""
    return _BLANKS.sub("", text).replace("$", "")


def surviving(equations: Sequence[str], text: str) -> int:
    r"""How many of the equations the text still has, each as often as it was there.

    >>> surviving(["x^2", "x^2", "y"], r"\(x ^2\) and y")
    2
    """
    whole = squeezed(text)
    wanted: dict[str, int] = {}
    for tex in equations:
        key = squeezed(tex)
        wanted[key] = wanted.get(key, 0) + 1
    return sum(min(count, whole.count(key)) if key else count for key, count in wanted.items())


_MARKUP = re.compile(
    r"</?(?:m[a-z]+|semantics|annotation|span|div|p|a|img|script|table|t[rdh])\b[^<>]*>|\[MATH:|:MATH\]"
)


def markup_characters(text: str) -> int:
    """Characters of a rendered text that are elements of HTML and MathML."""
    return sum(len(match[0]) for match in _MARKUP.finditer(text))
