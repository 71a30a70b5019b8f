"""Keep benchmark questions out of training data: runs of words that a text shares with one.

Any shared run of n words counts. A question shorter than n is matched as a whole: inside a text where it
has `_WHOLE_RUN` words, and below that ("2 + 3 = ?", "Why?") only where it is all that a user asks. One pass
over a text, whatever the questions and however many: runs are numbers, looked up in sorted arrays.
"""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data_mix.documents import Document, conversations_in, text_of
from data_mix.files import lines_of
from data_mix.hashed_runs import Hashed, hashed
from workbench.conversation import Conversation
from workbench.errors import UserError

_WHOLE_RUN = 8
# A table of one bit for each of so many upper bits of a number: most runs of a text end there.
_TABLE_BITS = 22
_SHIFT = np.uint64(64 - _TABLE_BITS)


class RunSet:
    """Numbers of runs, to be looked for in texts."""

    def __init__(self, numbers: Iterable[NDArray[np.uint64]]) -> None:
        self.numbers = np.unique(np.concatenate([np.zeros(0, np.uint64), *numbers]))
        self._table = np.zeros(1 << _TABLE_BITS, bool)
        self._table[self.numbers >> _SHIFT] = True

    def found(self, runs: NDArray[np.uint64]) -> NDArray[np.int64]:
        """The places of the runs that are in the set."""
        if not len(self.numbers):
            return np.zeros(0, np.int64)
        places = np.flatnonzero(self._table[runs >> _SHIFT])
        at = np.searchsorted(self.numbers, runs[places])
        at[at == len(self.numbers)] = 0
        return places[self.numbers[at] == runs[places]]


class Decontaminator:
    """Holds the runs of the benchmark questions. Example::

    guard = Decontaminator(["What is the capital of France?"], ngram_words=4)
    guard.is_contaminated("he asked: what is the capital of Peru")   # True

    common: runs that say nothing of one question (data_mix.curate.questions).
    """

    def __init__(
        self,
        prompts: Iterable[str],
        *,
        ngram_words: int = 13,
        common: NDArray[np.uint64] | None = None,
    ) -> None:
        self._size = ngram_words
        self._start = min(_WHOLE_RUN, ngram_words)
        self._turns: set[int] = set()
        # A shorter prompt's first run -> the whole of each prompt that begins so.
        self._whole: dict[int, list[NDArray[np.uint64]]] = {}
        runs = [found for prompt in prompts if len(found := self._add(hashed(prompt)))]
        long = np.unique(np.concatenate([np.zeros(0, np.uint64), *runs]))
        self._runs = RunSet([long if common is None else np.setdiff1d(long, common)])
        self._begins = RunSet([np.array(list(self._whole), np.uint64)])

    def _add(self, prompt: Hashed) -> NDArray[np.uint64]:
        """The runs of a long prompt; a shorter one is put with its like."""
        if prompt.num_words >= self._size:
            return prompt.runs(self._size)
        if prompt.num_words >= self._start:
            first = int(prompt.runs(self._start)[0])
            self._whole.setdefault(first, []).append(prompt.tokens)
        elif len(prompt.tokens):
            self._turns.add(int(prompt.whole()[0]))
        return np.zeros(0, np.uint64)

    def is_contaminated(self, document: Document) -> bool:
        """True where the document shares a run of words with a prompt, or asks a short one."""
        text = hashed(text_of(document))
        if len(self._runs.found(text.runs(self._size))) or self._has_whole(text):
            return True
        return bool(self._turns) and any(self._is_turn(asked) for asked in _asked(document))

    def _has_whole(self, text: Hashed) -> bool:
        if not self._whole:
            return False
        runs = text.runs(self._start)
        return any(
            np.array_equal(text.tokens[start : start + len(prompt)], prompt)
            for start in self._begins.found(runs)
            for prompt in self._whole[int(runs[start])]
        )

    def _is_turn(self, asked: str) -> bool:
        text = hashed(asked)
        return len(text.tokens) > 0 and int(text.whole()[0]) in self._turns


def _asked(document: Document) -> list[str]:
    """What a user asks first, and all of what users say; of a plain text the text."""
    if isinstance(document, str):
        return [document]
    out = []
    for conversation in conversations_in(document):
        said = [text for text in map(_said, conversation.messages) if text]
        out += [said[0], "\n".join(said)] if said else []
    return out


def _said(message: dict[str, object]) -> str:
    """A user's text. System messages are shared by many prompts, and say nothing of a benchmark."""
    return str(message.get("content") or "") if message.get("role") == "user" else ""


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
                else "\n".join(filter(None, map(_said, Conversation.from_row(row).prompt)))
            )
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{path}, line {number}: neither a `text` nor a conversation row ({error})"
            ) from None
    return prompts
