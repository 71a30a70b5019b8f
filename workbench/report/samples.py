"""The same question answered by the first and the last model, chosen by a rule that is stated."""

import json
from dataclasses import dataclass
from typing import Any

from workbench.report.clean import shortened
from workbench.report.compare import label
from workbench.report.read import Result, RunFacts

RULE = (
    "For each benchmark, in its order: the first question that only the last model answers right, the "
    "first that both do, the first that only the first model does; where there is none such, the "
    "first that the last model gets wrong."
)
_REASONS = ("gained", "right both times", "still wrong", "lost")


@dataclass(frozen=True)
class Reply:
    """One model's reply. verdict: right, wrong, partly right, or not scored."""

    model: str
    verdict: str
    status: str
    thinking: str
    answer: str
    tokens: int | None
    well_formed: bool


@dataclass(frozen=True)
class Pair:
    """A question and two replies to it."""

    id: str
    why: str
    prompt: list[tuple[str, str]]
    """(role, text) of each message."""
    reference: str
    replies: list[Reply]


@dataclass(frozen=True)
class SampleGroup:
    """The chosen questions of a benchmark."""

    benchmark: str
    pairs: list[Pair]


def sample_groups(facts: RunFacts) -> list[SampleGroup]:
    """Questions for every benchmark that the first and the last evaluated model share."""
    ends = facts.evaluated[:1] + facts.evaluated[1:][-1:]
    groups = []
    for benchmark in facts.benchmarks:
        own = [facts.current(model, benchmark) for model in ends]
        results = [r for r in own if r is not None]
        chosen = _choose(results)
        pairs = _read_pairs(results, chosen)
        if pairs:
            groups.append(SampleGroup(label(benchmark), pairs))
    return groups


def _choose(results: list[Result]) -> dict[str, str]:
    """Question id -> why it is shown."""
    if not results:
        return {}
    first, last = results[0].values, results[-1].values
    found: dict[str, str] = {}
    for key, value in last.items():
        if key in first:
            found.setdefault(_why(first[key] >= 1, value >= 1), key)
    if "lost" in found:  # it says more than one that was never right
        found.pop("still wrong", None)
    return {found[why]: why for why in _REASONS if why in found}


def _why(before: bool, after: bool) -> str:
    if after:
        return "right both times" if before else "gained"
    return "lost" if before else "still wrong"


def _read_pairs(results: list[Result], chosen: dict[str, str]) -> list[Pair]:
    found: dict[str, list[tuple[str, dict[str, Any]]]] = {key: [] for key in chosen}
    for result in results:
        for row in result.rows():
            key = str(row.get("id"))
            if key in chosen and all(model != result.model for model, _ in found[key]):
                found[key].append((result.model, row))
    pairs = []
    for key, rows in found.items():
        if rows:
            row = rows[-1][1]
            replies = [_reply(model, r) for model, r in rows]
            reference = _text(row.get("reference"))
            pairs.append(Pair(key, chosen[key], _messages(row.get("prompt")), reference, replies))
    return pairs


def _messages(prompt: Any) -> list[tuple[str, str]]:
    if not isinstance(prompt, list):
        return [("prompt", shortened(_text(prompt)))]
    messages = [m for m in prompt if isinstance(m, dict)]
    return [(str(m.get("role", "?")), shortened(_text(m.get("content")))) for m in messages]


def _reply(model: str, row: dict[str, Any]) -> Reply:
    value = row.get("value")
    if value is None:
        verdict = "not scored"
    else:
        verdict = "right" if value >= 1 else ("wrong" if value <= 0 else "partly right")
    tokens = row.get("tokens")
    total = sum(tokens.values()) if isinstance(tokens, dict) else tokens
    return Reply(
        model=model,
        verdict=verdict,
        status=str(row.get("status", "")).replace("_", " "),
        thinking=shortened(_text(row.get("thinking")).strip()),
        answer=shortened(_text(row.get("answer")).strip() or _calls(row.get("tool_calls"))),
        tokens=total if isinstance(total, int) else None,
        well_formed=bool(row.get("well_formed")),
    )


def _calls(calls: Any) -> str:
    return json.dumps(calls, ensure_ascii=False, indent=1) if calls else ""


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
