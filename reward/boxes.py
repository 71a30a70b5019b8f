"""The last \\boxed{...} of a reply."""

import re
from typing import NamedTuple

_BOX = re.compile(r"\\boxed\s{0,3}\{")


class Box(NamedTuple):
    """place: where it begins; content: what it holds, None where it is never closed."""

    place: int
    content: str | None


def last_box(text: str) -> Box | None:
    """The last box; None where there is none. A brace after a backslash is not a brace."""
    boxes = list(_BOX.finditer(text))
    if not boxes:
        return None
    start, depth, at = boxes[-1].end(), 1, boxes[-1].end()
    while at < len(text):
        char = text[at]
        if char == "\\":
            at += 2
            continue
        depth += {"{": 1, "}": -1}.get(char, 0)
        if depth == 0:
            return Box(boxes[-1].start(), text[start:at])
        at += 1
    return Box(boxes[-1].start(), None)
