"""Which licences a text is under: SPDX headers, and texts of licences by the runs of five words they share.

Texts come from SPDX's list. A file may hold several licences one after another; each part counts. Names are
SPDX identifiers; what cannot be told is no licence.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from data_mix.files import files_of
from data_mix.hashed_runs import hashed
from workbench.errors import UserError

_WORDS = 5
# A licence is in a text that has so much of its words; a shorter part is a mention.
_CONTAINED = 0.8
# Licences of which so much more or less is in a text cannot be told apart by it.
_TIE = 0.01
_HEADER_LINES = 60
_SPDX = re.compile(r"SPDX-License-Identifier:\s*([^\n*]+)")
_COPYLEFT = re.compile(
    r"GNU\s+(?:\w+\s+){0,2}General\s+Public|\b(?:A|L)?GPL(?:v?\d|\b)|Mozilla\s+Public|All\s+rights\s+reserved\s+by",
    re.IGNORECASE,
)
_FILE_NAMES = re.compile(r"(?:un)?licen[cs]es?(?:[._-].*)?|copying(?:[._-].*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """A licence in a text; ties: others that its words fit as well."""

    id: str
    ties: tuple[str, ...] = ()

    def allowed(self, allow: Sequence[str]) -> bool:
        """Whether it is on the list, and nothing that it may be is off it."""
        return self.id in allow and all(other in allow for other in self.ties)


class Licences:
    """The texts of licences: identifier -> text."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self._ids = sorted(texts)
        grams = [np.unique(hashed(texts[name]).runs(_WORDS)) for name in self._ids]
        self._sizes = np.array([max(len(own), 1) for own in grams])
        owners = np.repeat(np.arange(len(grams)), [len(own) for own in grams])
        numbers = np.concatenate([np.zeros(0, np.uint64), *grams])
        order = np.argsort(numbers, kind="stable")
        self._numbers, self._owners = numbers[order], owners[order]

    def of_text(self, text: str) -> list[Found]:
        """The licences whose texts are in this one: the likest, and others in what it leaves."""
        left, out = np.unique(hashed(text).runs(_WORDS)), list[Found]()
        while len(left):
            shared = self._shared(left)
            contained = shared / self._sizes
            if contained.max() < _CONTAINED:
                break
            # The whole of the longest: a licence with one clause more is there only where that clause is.
            full = contained >= contained.max() - _TIE
            best = int(np.where(full, shared, -1).argmax())
            own = left[np.isin(left, self._numbers[self._owners == best])]
            ties = np.flatnonzero(full & (self._shared(own) >= (1 - _TIE) * len(own)))
            out.append(Found(self._ids[best], tuple(self._ids[n] for n in ties if n != best)))
            gone = np.isin(left, self._numbers[np.isin(self._owners, ties)])
            left = left[~gone]
        return out

    def _shared(self, runs: np.ndarray) -> np.ndarray:
        """How many of the runs each licence has."""
        begin = np.searchsorted(self._numbers, runs, side="left")
        end = np.searchsorted(self._numbers, runs, side="right")
        places = [self._owners[a:b] for a, b in zip(begin, end, strict=True) if b > a]
        whole = np.concatenate([np.zeros(0, np.int64), *places])
        return np.bincount(whole, minlength=len(self._ids))


def read_texts(pattern: str) -> dict[str, str]:
    """Texts of licences: spdx-full.json of the npm package spdx-license-list, or a file ID.txt for each.

    Raises: UserError where there is none.
    """
    out: dict[str, str] = {}
    for path in files_of(pattern):
        if path.suffix == ".json":
            held = json.loads(path.read_text(encoding="utf-8"))
            out |= {name: str(one["licenseText"]) for name, one in held.items()}
        else:
            out[path.stem] = path.read_text(encoding="utf-8", errors="replace")
    if not out:
        raise UserError(
            f"licence texts: no file matches {pattern!r}; docs/data.md says where they are"
        )
    return out


def header_of(text: str) -> str:
    """The beginning of a source file, where its licence stands."""
    return "\n".join(text.splitlines()[:_HEADER_LINES])


def spdx_allowed(expression: str, allow: Sequence[str]) -> bool:
    """Whether an SPDX expression can be met by licences of the list.

    >>> spdx_allowed("GPL-2.0-only OR MIT", ["MIT"]), spdx_allowed("MIT AND GPL-2.0-only", ["MIT"])
    (True, False)
    """
    words = expression.strip().strip("*/-# ").rstrip(")").split()
    if "(" in expression:  # every part must be on the list: less is let through than might be
        ids = [w.strip("()") for w in words if w not in ("AND", "OR")]
        return bool(ids) and all(name in allow for name in ids)
    choices = " ".join(words).split(" OR ")
    return any(
        all(part.split(" WITH ")[0].strip() in allow for part in choice.split(" AND "))
        for choice in choices
    )


def spdx_in(text: str) -> str | None:
    """The SPDX expression in a header."""
    found = _SPDX.search(header_of(text))
    return found[1].strip().removesuffix("-->").strip() if found else None


def says_copyleft(text: str) -> bool:
    """Whether a header speaks of a licence that asks for more, whatever lies beside it."""
    return _COPYLEFT.search(header_of(text)) is not None


def licence_files(path: Path) -> list[Path]:
    """The licence files of the nearest folder upward that has any."""
    for folder in path.resolve().parents:
        found = sorted(f for f in folder.iterdir() if _FILE_NAMES.fullmatch(f.name) and f.is_file())
        if found:
            return found
    return []
