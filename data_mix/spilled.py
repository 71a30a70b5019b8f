"""Conversations in a file instead of in memory: a list of any length for 8 bytes each."""

import os
import pickle
import tempfile
from array import array
from collections.abc import Iterable, MutableSequence
from pathlib import Path
from typing import Any

from workbench.conversation import Conversation


class Spilled(MutableSequence[Conversation]):
    """A list of conversations that lies in a file without a name, which ends with this process.

    One that is set anew is written behind the others. Nothing can be inserted or deleted.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        # Nameless: nobody else can put a pickle of theirs into its place, and a kill leaves nothing.
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - open as long as the list is
        self._places = array("q")
        self._sizes = array("i")
        self._end = 0

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, number: Any) -> Any:
        self._file.flush()
        found: Conversation = pickle.loads(
            os.pread(self._file.fileno(), self._sizes[number], self._places[number])
        )
        return found

    def __setitem__(self, number: Any, conversation: Any) -> None:
        self._places[number], self._sizes[number] = self._write(conversation)

    def __delitem__(self, number: Any) -> None:
        raise NotImplementedError("nothing leaves this list")

    def insert(self, index: int, value: Conversation) -> None:
        """At the end only."""
        if index != len(self):
            raise NotImplementedError("this list grows at its end")
        place, size = self._write(value)
        self._places.append(place)
        self._sizes.append(size)

    def extend(self, values: Iterable[Conversation]) -> None:
        """Append all; each is forgotten before the next is asked for."""
        for value in values:
            self.append(value)

    def _write(self, conversation: Conversation) -> tuple[int, int]:
        data = pickle.dumps(conversation, protocol=pickle.HIGHEST_PROTOCOL)
        self._file.write(data)
        place, self._end = self._end, self._end + len(data)
        return place, len(data)
