"""Benchmarks of base models, through lm-eval's harness: few-shot prompts, log-likelihoods of options.

Settings that neither the paper nor its model card names are the harness' own.
"""

from collections.abc import Mapping, Sequence

from evals.benchmark import Benchmark, BenchmarkSampling, Harness
from evals.sources import Data, Loading
from evals.statistics import strata
from workbench.conversation import Conversation
from workbench.errors import UserError
from workbench.records import Estimate, Sample

PREFIX = "lm-eval-"
OWN_TASKS = "lm-eval"  # folder beside the user's data with task files of his own
_LANGUAGES = (
    "ar", "bn", "de", "en", "es", "fr", "hi", "id", "it", "ja", "ko", "pt", "sw", "yo", "zh",
)  # fmt: skip


def _load(loading: Loading) -> list[Conversation]:
    raise UserError("a benchmark of lm-eval's harness needs a checkpoint: it reads log-likelihoods")


def _by_task(rows: Sequence[Sample]) -> dict[str, Estimate]:
    parts = strata(rows)
    return parts if len(parts) > 1 else {}


def _made(
    name: str,
    about: str,
    hub: str,
    harness: Harness,
    source: str,
    paper: Mapping[str, float] | None = None,
) -> Benchmark:
    return Benchmark(
        name,
        about,
        Data(
            f"hub {hub}, through lm-eval",
            packages=("lm_eval", "sacrebleu"),
            files=(name,) if harness.own_split else (),
            hub_only=not harness.own_split,
        ),
        _load,
        BenchmarkSampling(temperature=0.0, top_p=1.0, max_tokens=1, thinking=False, source=source),
        metrics=_by_task,
        harness=harness,
        paper=dict(paper or {}),
    )


_HARNESS = "lm-eval's own; the paper names the harness and not the shots"


def own_task(name: str) -> Benchmark:
    """lm-eval-TASK  any task or group of lm-eval's harness, and those of data/evals/lm-eval/*.yaml, by
    log-likelihoods or greedy texts [where the task says]"""
    task = name.removeprefix(PREFIX)
    return Benchmark(
        name,
        f"lm-eval's task {task}",
        Data("where the task says", packages=("lm_eval", "sacrebleu")),
        _load,
        BenchmarkSampling(
            temperature=0.0, top_p=1.0, max_tokens=1, thinking=False, source="lm-eval's own"
        ),
        metrics=_by_task,
        harness=Harness((task,), metric=""),
    )


BENCHMARKS = [
    _made(
        "mmlu",
        "MMLU, 57 subjects, 5-shot",
        "cais/mmlu",
        Harness(("mmlu",), ("mmlu/default",), shots=5),
        "paper, table 5: 5-shot",
        {"12B base": 78.24, "Qwen3-8B base": 76.44, "Gemma3-12B base": 73.61},
    ),
    _made(
        "arc-challenge",
        "ARC-Challenge by the options' texts (the paper's 93.26 shows all options: another task)",
        "allenai/ai2_arc",
        Harness(("arc_challenge",), ("arc",), metric="acc_norm", own_split="test"),
        _HARNESS,
    ),
    _made(
        "hellaswag",
        "HellaSwag, validation split",
        "Rowan/hellaswag",
        Harness(("hellaswag",), ("hellaswag",), metric="acc_norm", own_split="validation"),
        _HARNESS,
    ),
    _made(
        "piqa",
        "PIQA, validation split",
        "baber/piqa",
        Harness(("piqa",), ("piqa",), metric="acc_norm", own_split="validation"),
        _HARNESS,
    ),
    _made(
        "winogrande",
        "WinoGrande XL, validation split",
        "allenai/winogrande",
        Harness(("winogrande",), ("winogrande",), own_split="validation"),
        _HARNESS,
    ),
    _made(
        "openbookqa",
        "OpenBookQA",
        "allenai/openbookqa",
        Harness(("openbookqa",), ("openbookqa",), metric="acc_norm", own_split="test"),
        _HARNESS,
    ),
    _made(
        "agieval-en",
        "AGIEval, the 10 English tasks, by log-likelihood (the paper's CoT is another protocol)",
        "hails/agieval-*",
        Harness(("agieval_en",), ("agieval",)),
        _HARNESS,
    ),
    _made(
        "global-mmlu-lite",
        f"Global-MMLU-Lite, {len(_LANGUAGES)} languages",
        "CohereLabs/Global-MMLU-Lite",
        Harness(tuple(f"global_mmlu_{x}" for x in _LANGUAGES), ("global_mmlu/default",)),
        _HARNESS,
    ),
]
