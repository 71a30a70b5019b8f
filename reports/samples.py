"""Samples as a page shows them; and the same question answered by the first and the last model."""

import json
from dataclasses import dataclass
from typing import Any

from reports.differences import label
from reports.page import shortened
from reports.read import Evaluation, RunFacts
from workbench.records import Sample, read_samples

RULE = (
    "For each benchmark, in its order: the first question that only the last model answers right, the "
    "first that both do, the first that only the first model does; where there is none such, the "
    "first that the last model gets wrong."
)
_REASONS = ("gained", "right both times", "still wrong", "lost")


@dataclass(frozen=True)
class SampleView:
    """One sample with its texts cut to what a page holds. verdict: right, wrong, 50% right or failed;
    chip: the class of its colour."""

    sample: Sample
    verdict: str
    chip: str
    prompt: list[tuple[str, str]]
    """(role, text) of each message."""
    thinking: str
    answer: str
    reference: str
    why: str

    @property
    def tokens(self) -> int:
        """Of the whole reply."""
        return self.sample.tokens.thinking + self.sample.tokens.answer


def sample_view(sample: Sample, limit: int = 3000) -> SampleView:
    """A sample as a page shows it, no text longer than `limit` characters."""
    value = sample.value
    if value is None:
        verdict = chip = "failed"
    elif 0 < value < 1:
        verdict, chip = f"{100 * value:.0f}% right", "partly"
    else:
        verdict = chip = "right" if value >= 1 else "wrong"
    prompt = sample.prompt
    if not isinstance(prompt, list):
        prompt = [{"role": "prompt", "content": prompt}] if prompt else []
    messages = [m for m in prompt if isinstance(m, dict)]
    calls = _text(sample.tool_calls) if sample.tool_calls else ""
    why = [sample.status.replace("_", " ")]
    why += [f"{key}: {_text(found)}" for key, found in sample.why.items()]
    why += ["cut at the token limit"] if sample.finish_reason == "length" else []
    return SampleView(
        sample,
        verdict,
        chip,
        [(str(m.get("role", "?")), shortened(_text(m.get("content")), limit)) for m in messages],
        shortened(sample.thinking.strip(), limit),
        shortened(f"{sample.answer.strip()}\n{calls}".strip(), limit),
        shortened(_text(sample.reference), limit),
        shortened("\n".join(why), limit),
    )


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True)
class ReplyPair:
    """A question and two replies to it: (model, reply)."""

    id: str
    why: str
    replies: list[tuple[str, SampleView]]

    @property
    def question(self) -> SampleView:
        """The view whose prompt and reference are shown."""
        return self.replies[-1][1]


@dataclass(frozen=True)
class SampleGroup:
    """The chosen questions of a benchmark."""

    benchmark: str
    pairs: list[ReplyPair]


def sample_groups(facts: RunFacts) -> list[SampleGroup]:
    """Questions for every benchmark that the first and the last evaluated model share."""
    ends = facts.evaluated[:1] + facts.evaluated[1:][-1:]
    groups = []
    for benchmark in facts.benchmarks:
        found = [r for model in ends if (r := facts.current(model, benchmark)) is not None]
        pairs = _read_pairs(found, _choose(found))
        if pairs:
            groups.append(SampleGroup(label(benchmark), pairs))
    return groups


def _choose(results: list[Evaluation]) -> dict[str, str]:
    """Question id -> why it is shown."""
    if not results:
        return {}
    first, last = results[0].questions, results[-1].questions
    found: dict[str, str] = {}
    for key, question in last.items():
        if key in first:
            found.setdefault(_why(first[key].value >= 1, question.value >= 1), key)
    if "lost" in found:  # it says more than one that was never right
        found.pop("still wrong", None)
    return {found[why]: why for why in _REASONS if why in found}


def _why(before: bool, after: bool) -> str:
    if after:
        return "right both times" if before else "gained"
    return "lost" if before else "still wrong"


def _read_pairs(results: list[Evaluation], chosen: dict[str, str]) -> list[ReplyPair]:
    found: dict[str, dict[str, SampleView]] = {key: {} for key in chosen}
    for result in results:
        for sample in read_samples(result.folder, texts=True):
            if sample.id in chosen and result.model not in found[sample.id]:
                found[sample.id][result.model] = sample_view(sample)
    return [
        ReplyPair(key, chosen[key], [*replies.items()]) for key, replies in found.items() if replies
    ]
