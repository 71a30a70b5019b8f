"""Step `html`: the text of a page, by lynx (the paper's renderer) or resiliparse."""

import re
import subprocess

from data_mix.curate.config import HtmlStep
from data_mix.curate.equations import markup_characters, parse, surviving
from data_mix.curate.step import Decision, RowStep
from data_mix.scatter import ShardJob
from data_mix.shards import Item

# Nothing is fetched, run or written: the page is data from a stranger.
_LYNX = [
    "lynx", "-dump", "-stdin", "-force_html", "-nolist", "-nonumbers", "-width=1024", "-localhost",
    "-restrictions=all", "-noreferer", "-nopause", "-assume_charset=utf-8", "-display_charset=utf-8",
]  # fmt: skip
_MARGIN = re.compile(r"^ {3}", re.MULTILINE)
# What resiliparse takes to find the main content grows with the square of the depth: 7 s at 10,000.
_DEEPEST = 500
_EMPTY_LINES = re.compile(r"\n{3,}")


class Html(RowStep):
    """Changes `html` into `text`."""

    def __init__(self, config: HtmlStep, name: str, job: ShardJob) -> None:
        super().__init__(name)
        self._config = config

    def one(self, item: Item) -> Decision:
        """See RowStep."""
        html = item.row.pop("html")
        config = self._config
        text = by_lynx(html, config.limit_s) if config.by == "lynx" else by_resiliparse(html)
        equations = item.row.get("equations") or []
        kept = surviving(equations, text)
        if config.by == "resiliparse" and kept < config.min_recall * len(equations):
            text = by_resiliparse(html, main=False)
            self.count(item, "whole page, for its equations")
        if not text.strip():
            return self.removed("no text")
        item.row["text"] = text
        self.count(item, "characters of markup", markup_characters(text))
        return None


def by_lynx(html: str, limit_s: float = 60.0) -> str:
    """The page as lynx shows it. Raises: RuntimeError or TimeoutExpired where lynx fails."""
    done = subprocess.run(
        _LYNX,
        input=html.encode("utf-8", "replace"),
        capture_output=True,
        timeout=limit_s,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"lynx ended with {done.returncode}")
    text = _MARGIN.sub("", done.stdout.decode("utf-8", "replace"))
    return _EMPTY_LINES.sub("\n\n", text).strip() + "\n"


def _deep(html: str) -> bool:
    document = parse(html)
    return document is not None and bool(document.xpath(f"boolean({'/*' * _DEEPEST})"))


def by_resiliparse(html: str, *, main: bool = True) -> str:
    """The page's main content, or all of it, as of pages that are nested without end."""
    from resiliparse.extract.html2text import extract_plain_text  # noqa: PLC0415 - only where it is used

    main = main and not _deep(html)
    text = extract_plain_text(html, main_content=main, alt_texts=True, preserve_formatting=True)
    return str(text).strip() + "\n"
