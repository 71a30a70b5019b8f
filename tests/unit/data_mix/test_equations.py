r"""Every notation of equations becomes TeX in the text, and both renderers then keep it."""

import shutil

import pytest

from data_mix.curate.equations import Page, markup_characters, surviving, tex_of
from data_mix.curate.steps.html import by_lynx, by_resiliparse

needs_lynx = pytest.mark.skipif(shutil.which("lynx") is None, reason="lynx is not installed")
needs_pandoc = pytest.mark.skipif(shutil.which("pandoc") is None, reason="pandoc is not installed")
# The same two equations, as pages carry them. MathML of a/b and x^2 is written by hand.
TEX = (r"\frac{a}{b}<1", r"x^{2} \ge 0")
_MML = (
    "<mfrac><mi>a</mi><mi>b</mi></mfrac><mo>&lt;</mo><mn>1</mn>",
    "<msup><mi>x</mi><mn>2</mn></msup><mo>≥</mo><mn>0</mn>",
)


def _annotated(number: int) -> str:
    tex = TEX[number].replace("<", "&lt;")
    inner = f"<mrow>{_MML[number]}</mrow>"
    note = f'<annotation encoding="application/x-tex">{tex}</annotation>'
    return f"<math><semantics>{inner}{note}</semantics></math>"


def _katex(number: int) -> str:
    return (
        f'<span class="katex"><span class="katex-mathml">{_annotated(number)}</span>'
        '<span class="katex-html" aria-hidden="true"><span class="mord">ab1x2</span></span></span>'
    )


def _script(number: int) -> str:
    display = "; mode=display" if number else ""
    return (
        '<span class="MathJax_Preview">[math]</span><span class="MathJax"><span>a b</span></span>'
        f'<script type="math/tex{display}">{TEX[number]}</script>'
    )


NOTATIONS = {
    "text": [rf"\({TEX[0].replace('<', '&lt;')}\)", rf"\[{TEX[1]}\]"],
    "script": [_script(0), _script(1)],
    "katex": [_katex(0), f'<span class="katex-display">{_katex(1)}</span>'],
    "mathml": [_annotated(0), _annotated(1)],
    "image": [
        f'<img class="math" src="1.png" alt="${TEX[0].replace("<", "&lt;")}$">',
        f'<img src="latex/2.png" alt="{TEX[1]}">',
    ],
}


def _page(equations: list[str]) -> str:
    words = "Every word of this sentence is here so that a page has a body to read. " * 4
    return (
        "<html><head><title>T</title><style>p {}</style></head><body><main>"
        f"<p>{words}</p><p>We know that {equations[0]} holds, and then</p><div>{equations[1]}</div>"
        f"<p>follows. {words}</p></main></body></html>"
    )


@pytest.mark.parametrize("notation", NOTATIONS)
def test_each_notation_becomes_tex_and_nothing_is_shown_twice(notation: str) -> None:
    page = Page(_page(NOTATIONS[notation]))
    assert page.found == [*TEX] and page.by_notation == {notation: 2}
    texts = [by_resiliparse(page.html)]
    if shutil.which("lynx"):
        texts.append(by_lynx(page.html))
    for text in texts:
        assert surviving(page.found, text) == 2
        assert f"know that \\({TEX[0]}\\) holds" in text
        assert "[math]" not in text and "ab1x2" not in text
        assert markup_characters(text) == 0


@needs_lynx
def test_without_the_pre_pass_lynx_loses_scripts_and_prints_mathml() -> None:
    """What the paper's step does to the same pages: the reason for ours."""
    scripts, mathml = (by_lynx(_page(NOTATIONS[name])) for name in ("script", "mathml"))
    assert surviving(TEX, scripts) == 0
    assert markup_characters(mathml) > 0


@needs_pandoc
def test_mathml_without_tex_is_written_by_pandoc_and_counted_where_it_cannot_be() -> None:
    bare = [f"<math>{inner}</math>" for inner in _MML]
    assert tex_of(bare) == [r"\frac{a}{b} < 1", r"x^{2} \geq 0"]
    page = Page(_page(bare))
    assert page.found == [r"\frac{a}{b} < 1", r"x^{2} \geq 0"] and page.by_notation == {"bare": 2}
    assert Page(_page(bare), pandoc=False).found == []
    broken = Page(_page(["<math></math>", bare[0]]))
    assert (broken.unread, len(broken.found)) == (1, 1)


def test_mathjax_3_containers_give_their_assistive_mathml() -> None:
    drawn = "<mjx-math><mjx-mi>a</mjx-mi></mjx-math>"
    assistive = f"<mjx-assistive-mml>{_annotated(0)}</mjx-assistive-mml>"
    container = f'<mjx-container display="true">{drawn}{assistive}</mjx-container>'
    page = Page(_page([container, "end"]))
    assert page.found == [TEX[0]] and f"\\[{TEX[0]}\\]" in by_resiliparse(page.html)


def test_dollars_are_equations_only_where_a_renderer_is_loaded_and_never_in_code() -> None:
    shown = _page(["$$a+b$$", "<pre>echo $$ and \\(x\\) $$</pre>"])
    assert Page(shown).found == []
    assert Page(shown.replace("<style>", "<script src=katex.js></script><style>")).found == ["a+b"]


def test_an_equation_counts_as_often_as_it_stood_there() -> None:
    assert surviving(["a+b", "a+b", "c"], r"\(a + b\) c") == 2
    assert surviving(["a+b"], r"\(a - b\)") == 0


@pytest.mark.parametrize(
    "html",
    ["", "<", "<html", "\0<p>\\(a\\)</p>", "<div>" * 20_000 + "\\(a\\)", "<math>" * 300, "<!-- "],
)
def test_pages_without_end_or_sense_are_read_all_the_same(html: str) -> None:
    assert Page(html, pandoc=False).found in ([], ["a"])
    by_resiliparse(html)


@needs_lynx
def test_real_pages_keep_every_equation(real_pages: dict[str, str]) -> None:
    """BSD-licensed pages of mpmath's documentation; equations counted by their own markup."""
    for name, html in real_pages.items():
        page = Page(html)
        by_hand = html.count('class="math notranslate nohighlight"')
        assert len(page.found) >= by_hand > 0, name
        text = by_lynx(page.html)
        assert surviving(page.found, text) == len(page.found)
        assert markup_characters(text) < 0.005 * len(text)
