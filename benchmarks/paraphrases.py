"""How many real paraphrases of benchmark questions reach the judge of step `decontaminate` (docs/data.md).

    git clone https://github.com/lm-sys/llm-decontaminator /tmp/peer
    python benchmarks/paraphrases.py /tmp/peer/data

Each rephrased question stands alone, and once more between 600 characters of other questions: by runs of 13
words (removed at once), and among the five likest questions above the step's least likeness (put to the judge).
"""

import csv
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from data_mix.curate.config import DecontaminateStep
from data_mix.curate.nearest import Nearest
from data_mix.decontaminate import Decontaminator

STEP = DecontaminateStep(type="decontaminate", against=["all-here"])
AROUND = 600


def lines(path: Path) -> list[str]:
    """The texts of a file of JSON lines."""
    return [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines() if line]


def pairs(folder: Path) -> Iterator[tuple[str, list[tuple[str, str]]]]:
    """(name, (question, paraphrase)) of what the repository has."""
    code = lines(folder / "test/HumanEval.jsonl")
    for name, file in (("HumanEval, Python", "python"), ("HumanEval, JavaScript", "js"), ("HumanEval, C", "c")):  # fmt: skip
        yield (
            name,
            list(zip(code, lines(folder / f"rephrase/humaneval_{file}.jsonl"), strict=False)),
        )
    for subject in ("abstract_algebra", "high_school_us_history", "sociology"):
        with (folder / f"rephrase/{subject}_test.csv").open(encoding="utf-8") as file:
            asked = [row[0] for row in csv.reader(file)]
        for tongue in ("rephrase_english", "chinese"):
            told = lines(folder / f"rephrase/{subject}_test_{tongue}_filtered_question.jsonl")
            both = [(q, p) for q, p in zip(asked, told, strict=False) if p.strip()]
            yield f"MMLU {subject}, {tongue}", both


def main() -> None:
    """Measure each set."""
    for name, both in pairs(Path(sys.argv[1])):
        asked = [question for question, _ in both]
        guard, near = Decontaminator(asked, ngram_words=STEP.ngram_words), Nearest(asked)
        found = {"at once": 0, "to the judge": 0, "inside a text": 0}
        began = time.process_time()
        for number, (_, told) in enumerate(both):
            others = [asked[(number + n) % len(asked)] for n in (7, 31)]
            inside = f"{others[0][-AROUND:]}\n{told}\n{others[1][:AROUND]}"
            likest = [near.of(text, STEP.candidates, STEP.likeness) for text in (told, inside)]
            found["at once"] += guard.is_contaminated(told)
            found["to the judge"] += any(one.question == number for one in likest[0])
            found["inside a text"] += any(one.question == number for one in likest[1])
        shares = ", ".join(f"{key} {value / len(both):.3f}" for key, value in found.items())
        speed = 1000 * (time.process_time() - began) / len(both) / 2
        print(f"{name}: {len(both)} paraphrases: {shares}; {speed:.0f} ms a text")


if __name__ == "__main__":
    main()
