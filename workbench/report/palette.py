"""Colours of the report: one ramp from cold steel to glowing orange, a step for each model."""

# Anchors of the ramp, for light and dark pages.
_LIGHT = ("#6b7686", "#3b6fd4", "#7a4fd0", "#c0338a", "#e0590b")
_DARK = ("#9aa5b5", "#6ea3ff", "#a98bff", "#f06db5", "#ff9147")


def ramp(count: int, *, dark: bool = False) -> list[str]:
    """`count` colours, first and last model at the ramp's ends.

    >>> ramp(2)
    ['#6b7686', '#e0590b']
    """
    anchors = _DARK if dark else _LIGHT
    if count < 2:
        return [anchors[-1]] * count
    return [_between(anchors, i * (len(anchors) - 1) / (count - 1)) for i in range(count)]


def _between(anchors: tuple[str, ...], place: float) -> str:
    low = min(int(place), len(anchors) - 2)
    share = place - low
    a, b = (bytes.fromhex(anchors[i][1:]) for i in (low, low + 1))
    return "#" + bytes(round(x + (y - x) * share) for x, y in zip(a, b, strict=True)).hex()


def css_variables(count: int, *, dark: bool = False) -> str:
    """The ramp as CSS declarations --m0, --m1, ..."""
    return "".join(f"--m{i}:{colour};" for i, colour in enumerate(ramp(count, dark=dark)))
