"""Does the answer contain the wanted strings? RULER's rule."""

import re
from collections.abc import Sequence
from typing import Any

from reward.reply import CheckedReply
from reward.verdict import Verdict, decided, wrong_format
from workbench.errors import UserError, unknown_name

MODES = ("all", "any")
_CONTROL = re.compile(r"[\x00-\x1f]")


def check_contains(reply: CheckedReply, reference: Any, *, mode: str = "all") -> Verdict:
    """The share of the strings that stand in the answer ("all"), or whether one does ("any").

    reference: a non-empty list of strings. Upper and lower case are the same.
    """
    if mode not in MODES:
        raise unknown_name("mode of contains check", mode, MODES)
    texts = isinstance(reference, Sequence) and not isinstance(reference, str)
    if not texts or not reference or not all(isinstance(item, str) for item in reference):
        raise UserError(
            f"the reference of a contains check is a list of strings, got {reference!r}"
        )
    if not all(item.strip() for item in reference):
        raise UserError(
            f"the reference of a contains check has an empty string, which every answer contains: {reference!r}"
        )
    answer = _CONTROL.sub("\n", reply.answer.strip()).strip().lower()
    if not answer:
        return wrong_format("empty answer")
    found = [item.lower() in answer for item in reference]
    return decided(float(any(found)) if mode == "any" else sum(found) / len(found), found=found)
