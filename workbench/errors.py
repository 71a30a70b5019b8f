"""The two ways a run ends badly: the user's mistake, and a stop that was asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from difflib import get_close_matches


class UserError(Exception):
    """A mistake in a recipe, a command or the data. Shown as one line, exit code 2, no traceback.

    The message says what was given, what is allowed, and how to fix it.
    """


class StopRequested(Exception):
    """Raised inside a stage when Ctrl-C or SIGTERM asked the run to stop; state is already saved."""


_LONGEST_REASON = 500
_LONGEST_LIST, _NEAREST_SHOWN = 60, 12
_NAMES_SHOWN = 3


def one_line(error: BaseException, longest: int = _LONGEST_REASON) -> str:
    """Kind and message of an error in one line, for a status: no line breaks, no frames of stars.

    longest: in characters.

    >>> one_line(LookupError("\\n*****\\n  Resource 'a' not\\n  found.\\n*****"))
    "LookupError: Resource 'a' not found."
    """
    words = [word for word in str(error).split() if word.strip("*")]
    return f"{type(error).__name__}: {' '.join(words)}"[:longest]


def reason_of(error: BaseException | str, longest: int = 300) -> str:
    """The message alone in one line, for a sentence that names it; the kind where there is none.

    >>> reason_of(OSError("no\nroom")), reason_of(KeyError())
    ('no room', 'KeyError')
    """
    return " ".join(str(error).split())[:longest] or type(error).__name__


def some_of(names: Sequence[str], shown: int = _NAMES_SHOWN) -> str:
    """The first few of some names, and how many more there are.

    >>> some_of(["a", "b", "c"], 2)
    'a, b and 1 more'
    """
    more = len(names) - shown
    return ", ".join(names[:shown]) + (f" and {more} more" if more > 0 else "")


_LONGEST_NAME_BYTES = 200


def name_problem(name: str, taken: Iterable[str] = ()) -> str | None:
    """Why a name cannot be that of a folder of ours, or None where it can.

    >>> name_problem("../other")
    "contains '/'"
    """
    if not name.strip():
        return "is empty"
    if name[0] in ".-":
        return f"begins with {name[0]!r}"
    odd = next((c for c in name if c in "/\\" or not c.isprintable()), None)
    if odd is not None:
        return f"contains {odd!r}"
    if len(name.encode()) > _LONGEST_NAME_BYTES:
        return f"is longer than {_LONGEST_NAME_BYTES} bytes"
    return "is a file's of the run directory" if name in taken else None


def unknown_name(what: str, given: str, allowed: Iterable[str]) -> UserError:
    """A UserError for a name that is not in a closed list, naming the nearest valid one.

    Of a long list (lm-eval has thousands of tasks) only the names that are like it are shown.

    >>> str(unknown_name("stage", "sft_1", ["sft1", "grpo"]))
    "unknown stage 'sft_1'; did you mean 'sft1'? allowed: grpo, sft1"
    """
    names = sorted(allowed)
    near = get_close_matches(given, names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    shown, more = names, ""
    if len(names) > _LONGEST_LIST:
        shown = sorted(get_close_matches(given, names, n=_NEAREST_SHOWN, cutoff=0.0))
        more = f" and {len(names) - len(shown)} more"
    return UserError(f"unknown {what} {given!r}{hint} allowed: {', '.join(shown) or 'none'}{more}")
