"""A titled picture of a grid of pictures."""

from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True)
class Panel:
    """note: a line of numbers under the title."""

    title: str
    svg: Markup
    note: str = ""
