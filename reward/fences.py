"""Fenced blocks of Python in a reply, as Markdown has them and as models write them."""

import re
import textwrap
from dataclasses import dataclass

_OPENING = re.compile(r"(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[^\n]*)$")
# "python", "py", "Python3", "python title=...", "{.python}", "python:solution.py", "python3.11".
_PYTHON = re.compile(
    r"\{?[ \t]*\.?(?:i?python|py|pycon)(?:[ \t]?[23](?:\.\d+)?)?(?![\w-])", re.IGNORECASE
)
# After other words of a line: only where it names Python, or a colon announces it.
_IN_LINE = re.compile(
    r".*?(?:[^`~\s][ \t]+|:)(?P<fence>`{3,}|~{3,})[ \t]*(?P<info>[A-Za-z{.][^\n]*)?[ \t]*$"
)
# Inside a block, a fence with a word is the next block's; with anything else it closes this one.
_WORD = re.compile(r"(?:[A-Za-z{]|\.[A-Za-z])[\w+#.{}-]*")
# A closing fence may stand this much further to the right than its opening one; more is content.
_SHIFT = 3


@dataclass(frozen=True)
class Block:
    """code: without the indentation that its fence has. tagged: its fence names Python."""

    code: str
    tagged: bool


def unix_lines(text: str) -> str:
    """With line ends as Python has them inside its texts."""
    return text.replace("\r\n", "\n").replace("\r", "\n")


def has_fence(text: str) -> bool:
    """True where a line opens a block of any language."""
    return any(_opening(line) or _announced(line) for line in unix_lines(text).split("\n"))


def python_blocks(text: str) -> list[Block]:
    """The closed blocks that name Python or no language, in order.

    A block ends at a fence of its kind, on a line of its own or, where there is none before the next
    block, at the end of a line of code. One that is never closed is none: its reply was cut.
    """
    lines, blocks, at = unix_lines(text).split("\n"), list[Block](), 0
    while at < len(lines):
        opening = _opening(lines[at]) or _announced(lines[at])
        if opening is None:
            at += 1
            continue
        indent = len(opening.groupdict().get("indent") or "")
        end, body = _body(lines, at + 1, opening["fence"], indent)
        info = (opening["info"] or "").strip()
        tagged = _PYTHON.match(info) is not None
        if body is not None and (tagged or not info):
            blocks.append(Block(_without_indent(body, indent), tagged))
        at = end
    return blocks


def whole_program(code: str) -> str:
    """The code with what all of its lines are indented by taken away."""
    return textwrap.dedent(code)


def _opening(line: str) -> re.Match[str] | None:
    found = _OPENING.match(line)
    # "```x```" on one line is text.
    return None if found is None or (found["fence"][0] in found["info"]) else found


def _announced(line: str) -> re.Match[str] | None:
    found = _IN_LINE.match(line)
    if found is None or found["fence"][0] in (found["info"] or ""):
        return None
    named = _PYTHON.match(found["info"] or "")
    return found if named or (not found["info"] and found.start("fence") and ":" in line) else None


def _body(lines: list[str], start: int, fence: str, indent: int) -> tuple[int, list[str] | None]:
    """(the line after the block, its lines); None for lines where it is not closed."""
    inline, at = None, len(lines)
    for number in range(start, len(lines)):
        line = lines[number]
        found = _opening(line)
        near = found is not None and len(found["indent"]) <= indent + _SHIFT
        if near and found is not None and found["fence"].startswith(fence):
            info = found["info"].strip()
            if not (_PYTHON.match(info) or _WORD.fullmatch(info)):
                return number + 1, lines[start:number]
            at = number  # the next block: this one was closed before, or never
            break
        if inline is None and line.rstrip().endswith(fence):
            inline = number
    if inline is None:
        return at, None
    return inline + 1, [*lines[start:inline], lines[inline].rstrip()[: -len(fence)]]


def _without_indent(lines: list[str], indent: int) -> str:
    """Each line without up to `indent` blanks at its start."""
    blanks = re.compile(rf"[ \t]{{0,{indent}}}")
    return "".join(f"{line[blanks.match(line).end() :]}\n" for line in lines)  # type: ignore[union-attr]
