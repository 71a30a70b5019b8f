"""Pages that need no network: templates that escape, text made harmless, files that appear whole."""

import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from workbench.files import write_whole
from workbench.records import Estimate

TEMPLATES = Path(__file__).parent / "templates"
# Characters that change the page around them or cannot be encoded: C0 and C1 controls but newline
# and tab, direction overrides and isolates, lone surrogates, and what Unicode calls noncharacters.
_HARMFUL = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def clean(text: str) -> str:
    """Write harmful characters as their code points; all else stays as it is.

    >>> clean("a\\x1b[31m\\r\\n\\u202eb")
    'a⟨1B⟩[31m\\n⟨202E⟩b'
    """
    return _HARMFUL.sub(lambda found: f"⟨{ord(found[0]):02X}⟩", text.replace("\r\n", "\n"))


def shortened(text: str, limit: int = 3000) -> str:
    """The text, or its beginning and how much more there is."""
    rest = len(text) - limit
    return text if rest <= 0 else f"{text[:limit]} … ({rest:,} more characters)"


def compact(value: float) -> str:
    """A number in few characters.

    >>> [compact(v) for v in (0, 0.25, 12, 8192, 2_400_000, 2e-6)]
    ['0', '0.25', '12', '8.19k', '2.4M', '2e-06']
    """
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def percent(value: float) -> str:
    """A share as whole percent."""
    return f"{100 * value:.0f}%"


def number(value: float | None) -> str:
    """A number with one decimal; a dash where there is none."""
    return "–" if value is None or math.isnan(value) else f"{value:.1f}"


def points(value: float) -> str:
    """A difference of shares in percentage points, with its sign.

    >>> points(0.123), points(-0.0004), points(math.nan)
    ('+12.3', '0.0', '–')
    """
    if math.isnan(value):
        return "–"
    text = f"{100 * value:+.1f}"
    return "0.0" if text in ("+0.0", "-0.0") else text.replace("-", "−")


def span(estimate: Estimate, *, gain: bool = False) -> str:
    """The 95% interval in percent or points."""
    low, high = estimate.ci95
    if math.isnan(low):  # one question has no interval
        return "no interval"
    if gain:
        return f"{points(low)} to {points(high)}"
    return f"{100 * low:.0f}–{100 * high:.0f}"


def p_value(value: float) -> str:
    """A p-value; a dash where there is none."""
    if math.isnan(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def count_of(n: int, what: str) -> str:
    """`1 attempt`, `2 attempts`."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def write_page(path: Path, template: str, context: Mapping[str, Any], *styles: str) -> None:
    """Fill a template and write it by rename. styles: style sheets of the templates' folder."""
    text = filled(template, context, *styles)
    # Lone surrogates, which a byte-level vocabulary can spell, have been made visible by `clean`.
    write_whole(path, text, errors="replace")


def filled(template: str, context: Mapping[str, Any], *styles: str) -> str:
    """A filled template. styles: style sheets of the templates' folder."""
    css = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in styles)
    return _environment().get_template(template).render(**context, style=Markup(css))


@cache
def _environment() -> Environment:
    """An unknown name is an error; a value is escaped text, whoever wrote it."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    environment.filters |= {f.__name__: f for f in (number, percent, points, span, p_value)}
    return environment


def _finalize(value: Any) -> Any:
    return clean(value) if isinstance(value, str) and not isinstance(value, Markup) else value
