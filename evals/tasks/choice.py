"""Multiple choice: GPQA-Diamond and MMLU-Pro. The letter is boxed."""

from collections.abc import Sequence
from random import Random

from evals.benchmark import Benchmark, Sampled
from evals.sources import Data, Hub, Loading, rows_of
from evals.statistics import strata
from workbench.conversation import CheckSpec, Conversation
from workbench.records import Estimate, Sample

_PROMPT = (
    "Answer this multiple-choice question. Put the letter of the right option, and nothing else, "
    "inside \\boxed{{}}.\n\n{question}\n\n{options}"
)
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_GPQA = Hub("Idavidrein/gpqa", "gpqa_diamond", "train")
_MMLU_PRO = Hub("TIGER-Lab/MMLU-Pro")
_SHUFFLE_SEED = 2508


def question(id: str, domain: str, asked: str, options: Sequence[str], answer: int) -> Conversation:
    """A question with its options in order; answer is the index of the right one."""
    lines = "\n".join(f"{_LETTERS[i]}) {option}" for i, option in enumerate(options))
    return Conversation(
        id=id,
        domain=domain,
        messages=[
            {"role": "user", "content": _PROMPT.format(question=asked.strip(), options=lines)}
        ],
        check=CheckSpec("choice", _LETTERS[answer], {"num_choices": len(options)}),
    )


def shuffled(id: str, right: str, wrong: Sequence[str]) -> tuple[list[str], int]:
    """The options in an order that depends on the question alone, and the right one's place."""
    order = [right, *wrong]
    places = list(range(len(order)))
    Random(f"{_SHUFFLE_SEED}/{id}").shuffle(places)
    return [order[place].strip() for place in places], places.index(0)


def _gpqa(loading: Loading) -> list[Conversation]:
    wrong = [f"Incorrect Answer {i}" for i in (1, 2, 3)]
    rows = rows_of("gpqa-diamond", loading, _GPQA, ("Question", "Correct Answer", *wrong))
    questions = []
    for i, row in enumerate(rows[: loading.limit]):
        id = f"gpqa-{row.get('Record ID') or i}"
        options, answer = shuffled(id, row["Correct Answer"], [row[name] for name in wrong])
        domain = str(row.get("High-level domain") or "science")
        questions.append(question(id, domain, row["Question"], options, answer))
    return questions


def _mmlu_pro(loading: Loading) -> list[Conversation]:
    columns = ("question", "options", "answer_index", "category")
    rows = rows_of("mmlu-pro", loading, _MMLU_PRO, columns)
    return [
        question(
            f"mmlu-pro-{row.get('question_id', i)}",
            str(row["category"]),
            row["question"],
            row["options"],
            int(row["answer_index"]),
        )
        for i, row in enumerate(rows[: loading.limit])
    ]


def _by_category(rows: Sequence[Sample]) -> dict[str, Estimate]:
    return strata(rows)


BENCHMARKS = [
    Benchmark(
        "gpqa-diamond",
        "GPQA-Diamond, 198 questions, options shuffled by a fixed seed",
        Data(f"hub {_GPQA} (gated)", files=("gpqa-diamond",)),
        _gpqa,
        Sampled(samples=4, source="model card; average of 4 (VL paper's protocol)"),
        metrics=_by_category,
        paper={"12B aligned": 64.48, "Qwen3-8B": 59.61, "Qwen3-14B": 64.53, "9B": 64.0},
    ),
    Benchmark(
        "mmlu-pro",
        "MMLU-Pro, ten options",
        Data(f"hub {_MMLU_PRO}", files=("mmlu-pro",)),
        _mmlu_pro,
        Sampled(source="model card; one run"),
        metrics=_by_category,
        paper={"9B (NeMo-Skills)": 73.95},
    ),
]
