"""Checks that ask a judge: does an answer match, which of two is better, how good is it from 1 to 10?

Templates are the benchmark's own, given by the caller. A judge that cannot be reached, is cut, or
says nothing that can be read has not decided: status "error", no value.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from engine.judge_client import JudgeClient, JudgeConfig, JudgeReply
from reward.reply import CheckedReply
from reward.verdict import Verdict, decided, failed, wrong_format
from workbench.errors import UserError

_MATCH = re.compile(r"judgement\**\s*:\s*\**\s*(yes|no)\b", re.IGNORECASE)
_PREFERENCE = re.compile(r"\[\[([AB<>=]+)\]\]")
# MT-Bench's patterns, in its order.
_RATINGS = (r"\[\[(\d+\.?\d*)\]\]", r"\[(\d+\.?\d*)\]", r"Rating: (\d+)")
# Label -> (score of A, its weight): Arena-Hard counts a clear win three times.
PREFERENCES = {
    "A>>B": (1.0, 3), "A>B": (1.0, 1), "A=B": (0.5, 1), "B>A": (0.0, 1), "B>>A": (0.0, 3),
}  # fmt: skip
_SHOWN = 2000


def client_of(judge: Mapping[str, Any]) -> JudgeClient:
    """The one client of a judge's settings in this process."""
    return _client(JudgeConfig.read(dict(judge), where="judge"))


@cache
def _client(config: JudgeConfig) -> JudgeClient:
    return JudgeClient(config)


def check_match(
    reply: CheckedReply, reference: Any, *, judge: dict[str, Any], template: str
) -> Verdict:
    """1.0 where the judge says that the answer matches the right one (Humanity's Last Exam).

    reference: {"question", "answer"}. template: the judge's prompt with {question},
    {generated_answer} and {expected_answer}; its reply ends with "Judgement: yes" or "no". A reply
    without an answer matches nothing and costs no request.
    """
    question, answer = _two(reference)
    if not reply.answer.strip():
        return wrong_format("no answer")
    fields = {
        "question": question,
        "generated_answer": reply.answer,
        "expected_answer": answer,
    }
    asked = _sendable(template.format(**fields))
    said = client_of(judge).ask([{"role": "user", "content": asked}])
    if said.status != "ok":
        return _undecided([said])
    found = _MATCH.findall(said.text)
    if not found:
        return failed("judge: no judgement could be read", judge_said=[said.text[-_SHOWN:]])
    return decided(found[-1].lower() == "yes", judge_said=[said.text[-_SHOWN:]])


def check_better(
    reply: CheckedReply, reference: Any, *, judge: dict[str, Any], system: str, template: str
) -> Verdict:
    """How far the judge prefers the reply to a fixed answer, asked in both orders (Arena-Hard).

    reference: {"question", "answer"}. template: the judge's prompt with {question}, {answer_1} and
    {answer_2}; it is to end with one of [[A>>B]], [[A>B]], [[A=B]], [[B>A]], [[B>>A]]. value: the mean
    of both orders, each 1, 0.5 or 0. parts: `preferences`, both from the reply's side, and `weights`.
    """
    question, baseline = _two(reference)
    asks = []
    for first, second in ((reply.answer, baseline), (baseline, reply.answer)):
        user = template.format(question=question, answer_1=first, answer_2=second)
        asks.append(
            [{"role": "system", "content": system}, {"role": "user", "content": _sendable(user)}]
        )
    said = client_of(judge).ask_all(asks)
    if any(one.status != "ok" for one in said):
        return _undecided(said)
    labels = [preference(one.text) for one in said]
    shown = [one.text[-_SHOWN:] for one in said]
    if None in labels:
        return failed("judge: no preference could be read", judge_said=shown)
    scores, weights = zip(*(PREFERENCES[str(label)] for label in labels), strict=True)
    ours = [scores[0], 1.0 - scores[1]]
    return decided(
        sum(ours) / 2,
        preferences=ours,
        weights=list(weights),
        labels=labels,
        judge_said=shown,
    )


def preference(text: str) -> str | None:
    """The label of a judge's reply; None without one, with two that differ, or with another one.

    >>> preference("My final verdict is tie: [[A=B]]")
    'A=B'
    """
    found = set(_PREFERENCE.findall(text))
    label = found.pop() if len(found) == 1 else None
    return label if label in PREFERENCES else None


def rating(text: str) -> float | None:
    """The rating from 1 to 10 of a judge's reply; None where there is none.

    >>> rating("Correct. Rating: [[9]]")
    9.0
    """
    for pattern in _RATINGS:
        found = re.search(pattern, text)
        if found:
            value = float(found[1])
            return value if 1 <= value <= 10 else None
    return None


def rate(
    conversations: Sequence[Sequence[Mapping[str, str]]], judge: Mapping[str, Any]
) -> tuple[list[float], list[str], str]:
    """The judge's rating of each, what it said, and "" or why there is no rating of all."""
    said = client_of(judge).ask_all(conversations)
    shown = [one.text[-_SHOWN:] for one in said]
    if any(one.status != "ok" for one in said):
        return [], shown, _why(said)
    ratings = [rating(one.text) for one in said]
    if None in ratings:
        return [], shown, "judge: no rating could be read"
    return [float(r) for r in ratings if r is not None], shown, ""


def _two(reference: Any) -> tuple[str, str]:
    if not isinstance(reference, Mapping) or not {"question", "answer"} <= set(reference):
        raise UserError("the reference of a judged check is {question, answer}")
    return str(reference["question"]), str(reference["answer"])


def _undecided(said: Sequence[JudgeReply]) -> Verdict:
    return failed(_why(said), judge_said=[one.text[-_SHOWN:] for one in said])


def _why(said: Sequence[JudgeReply]) -> str:
    return next(one.reason for one in said if one.status != "ok")


def _sendable(text: str) -> str:
    """Without lone surrogates and NULs, which byte-level vocabularies can spell and servers refuse."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "")
