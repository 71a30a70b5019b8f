"""Keep benchmark prompts out of training data: word n-gram overlap.

Any shared run of n words counts. A prompt shorter than n words is matched as a whole, so that short
prompts are protected too.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path

from data_mix.files import lines_of
from workbench.conversation import Conversation
from workbench.errors import UserError


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


class Decontaminator:
    """Holds the n-grams of the benchmark prompts. Example::

    guard = Decontaminator(["What is the capital of France?"], ngram_words=4)
    guard.is_contaminated("he asked: what is the capital of Peru")   # True
    """

    def __init__(self, prompts: Iterable[str], *, ngram_words: int = 13) -> None:
        self._ngrams: dict[int, set[tuple[str, ...]]] = {}
        for prompt in prompts:
            words = _words(prompt)
            size = min(ngram_words, len(words))
            if size:
                known = self._ngrams.setdefault(size, set())
                known.update(tuple(words[i : i + size]) for i in range(len(words) - size + 1))

    def is_contaminated(self, text: str) -> bool:
        """True where the text shares a run of words with a prompt."""
        words = _words(text)
        return any(
            tuple(words[i : i + size]) in known
            for size, known in self._ngrams.items()
            for i in range(len(words) - size + 1)
        )


def read_prompts(path: str) -> list[str]:
    """Prompts of a JSONL file: column `text`, or the user turns of conversation rows."""
    file = Path(path)
    if not file.is_file():
        raise UserError(f"decontaminate_against: no file {path}; write the benchmark prompts there")
    prompts = []
    for number, _, line in lines_of(file):
        try:
            row = json.loads(line)
            prompts.append(
                row["text"]
                if "text" in row
                else "\n".join(str(m["content"]) for m in Conversation.from_row(row).prompt)
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}: neither a `text` nor a conversation row ({error})"
            ) from None
    return prompts
