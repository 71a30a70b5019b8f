"""Multiple choice: GPQA-Diamond and MMLU-Pro. The letter is boxed."""

from collections import Counter
from collections.abc import Sequence
from random import Random

from evals.benchmark import Benchmark, BenchmarkSampling
from evals.custom_files import Read, Row, answer, anything, own_id, text, texts, whole
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


def question(id: str, domain: str, asked: str, options: Sequence[str], right: int) -> Conversation:
    """A question with its options in order; right is the index of the right one."""
    lines = "\n".join(f"{_LETTERS[i]}) {option}" for i, option in enumerate(options))
    return Conversation(
        id=id,
        domain=domain,
        messages=[
            {"role": "user", "content": _PROMPT.format(question=asked.strip(), options=lines)}
        ],
        check=CheckSpec("choice", _LETTERS[right], {"num_choices": len(options)}),
    )


def shuffled(id: str, right: str, wrong: Sequence[str]) -> tuple[list[str], int]:
    """The options in an order that depends on the question alone, and the right one's place."""
    order = [right, *wrong]
    places = list(range(len(order)))
    Random(f"{_SHUFFLE_SEED}/{id}").shuffle(places)
    return [order[place].strip() for place in places], places.index(0)


def _gpqa(loading: Loading) -> list[Conversation]:
    wrong = [f"Incorrect Answer {i}" for i in (1, 2, 3)]
    columns: dict[str, Read] = {"Question": text, "Correct Answer": answer}
    rows = rows_of("gpqa-diamond", loading, _GPQA, columns | dict.fromkeys(wrong, answer))
    questions = []
    for i, row in enumerate(rows[: loading.limit]):
        id = f"gpqa-{own_id(row, 'Record ID', i)}"
        options, place = shuffled(id, row["Correct Answer"], [row[name] for name in wrong])
        domain = str(row.get("High-level domain") or "science")
        questions.append(question(id, domain, row["Question"], options, place))
    return questions


def _answered(row: Row) -> None:
    """The right option is one of them, and the letter beside it, if any, says the same."""
    place, count = row["answer_index"], len(row["options"])
    if not 2 <= count <= len(_LETTERS):
        raise ValueError(f"{count} options; give 2 to {len(_LETTERS)}")
    if not 0 <= place < count:
        raise ValueError(f"answer_index {place} is none of {count} options; give 0 to {count - 1}")
    letter = str(row.get("answer") or "").strip()
    if len(letter) == 1 and letter in _LETTERS and letter != _LETTERS[place]:
        raise ValueError(
            f"answer_index {place} is option {_LETTERS[place]} and answer is {letter}; the first "
            "option is 0"
        )


def _mmlu_pro(loading: Loading) -> list[Conversation]:
    columns: dict[str, Read] = {
        "question": text, "options": texts, "answer_index": whole, "category": anything,
    }  # fmt: skip
    rows = rows_of("mmlu-pro", loading, _MMLU_PRO, columns, _answered)
    questions, count = list[Conversation](), Counter[str]()
    for i, row in enumerate(rows):
        domain = str(row["category"] or "mmlu-pro")
        count[domain] += 1
        if loading.limit is None or count[domain] <= loading.limit:
            id = f"mmlu-pro-{own_id(row, 'question_id', i)}"
            questions.append(
                question(id, domain, row["question"], row["options"], row["answer_index"])
            )
    return questions


def _by_category(rows: Sequence[Sample]) -> dict[str, Estimate]:
    return strata(rows)


BENCHMARKS = [
    Benchmark(
        "gpqa-diamond",
        "GPQA-Diamond, 198 questions, options shuffled by a fixed seed",
        Data(f"hub {_GPQA} (gated)", files=("gpqa-diamond",)),
        _gpqa,
        BenchmarkSampling(samples=4, source="model card; average of 4 (VL paper's protocol)"),
        metrics=_by_category,
        paper={"12B aligned": 64.48, "Qwen3-8B": 59.61, "Qwen3-14B": 64.53, "9B": 64.0},
    ),
    Benchmark(
        "mmlu-pro",
        "MMLU-Pro, ten options",
        Data(f"hub {_MMLU_PRO}", files=("mmlu-pro",)),
        _mmlu_pro,
        BenchmarkSampling(source="model card; one run"),
        metrics=_by_category,
        paper={"9B (NeMo-Skills)": 73.95},
    ),
]
