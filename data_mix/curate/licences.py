"""Which licences a text is under: SPDX headers, and texts of licences by the runs of five words they share.

Texts come from SPDX's list. A file may hold several licences one after another; each part counts. Names are
SPDX identifiers; what cannot be told is no licence.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np

from data_mix.curate.clauses import Clauses
from data_mix.files import files_of
from data_mix.hashed_runs import hashed
from data_mix.words import words
from workbench.errors import UserError

_WORDS = 5
# A licence is in a text that has so much of its words; a shorter part is a mention.
_CONTAINED = 0.8
# Licences of which so much more or less is in a text cannot be told apart by it.
_TIE = 0.01
# A licence says something of its own by more runs than these, and a text says it too by half of them.
_FEW, _OWN_CLAUSE = 4, 0.5
# It stands in one place: in so many times its own length. Parts of two others are not a third.
_SPREAD = 1.5
OWN_WORDS = "LicenseRef-asks-no-more-than-allowed"
"""What a text is under that is no licence of the list, and whose every condition is one of allowed licences'."""
_HEADER_LINES = 60
_APPENDIX = re.compile(r"END OF (?:THE )?TERMS AND CONDITIONS", re.IGNORECASE)
# The Python licence tells its history, and of the GPL in it.
_HISTORY = re.compile(r"history of the software .*? terms and conditions for accessing")
_SPDX = re.compile(r"SPDX-License-Identifier:\s*([^\n*]+)")
_COPYLEFT = re.compile(
    r"GNU\s+(?:\w+\s+){0,2}General\s+Public|\b(?:A|L)?GPL(?:v?\d|\b)(?!\W*compatib)|Mozilla\s+Public|\bMPL\W*\d|Eclipse\s+Public"
    r"|Common\s+Development\s+and\s+Distribution|Creative\s+Commons\s+Attribution|\bCC[- ]BY\b|\bCNRI\b"
    r"|not\s+for\s+commercial|\b(?:academic|educational|evaluation|military|internal|personal|research)\s+use\b|\buse\s+only\b"
    r"|advertising\s+materials|non\W?commercial|proprietary\s+(?:and|licen[cs]e|information)|All\s+rights\s+reserved\s+by",
    re.IGNORECASE,
)
_OBLIGES = re.compile(r"\b(?:must|shall|may not|are not permitted|is not permitted|required)\b")
# How disclaimers and the clause about names are worded oblige nobody further.
_USUAL = re.compile(
    r"in no event (?:shall|will|must)|(?:may|must|shall) not be used to endorse|(?:notice|list)\w* (?:shall|must) be included"
)
_FEW_WORDS, _CONDITION = 8, "further-condition"
# What a header says in place of a licence's text. Its own words: "under the MIT license".
_UNDER = (
    r"(?:under|terms\s+of|by)\s+(?:the\s+)?(?:terms\s+(?:and\s+conditions\s+)?of\s+(?:the\s+)?)?"
)
_NOTICES = {
    "Apache-2.0": r"licensed\s+under\s+the\s+apache\s+license\W+version\s+2|apache\s+org\s+licenses\s+license\s+2\s+0"
    r"|common\s+licenses\s+apache\s+2\s+0",
    "CC0-1.0": r"dedicated\s+all\s+copyright\s+and\s+related\s+and\s+neighboring\s+rights|common\s+licenses\s+cc0\s+1\s+0",
    "MIT": rf"{_UNDER}(?:mit|expat)\s+licen[cs]e",
    "BSL-1.0": rf"{_UNDER}boost\s+software\s+license\s+version\s+1",
    "BSD-2-Clause": rf"{_UNDER}(?:(?:2|two)\s+clause|simplified)\s+bsd\s+licen[cs]e|{_UNDER}bsd\s+2\s+clause",
    "BSD-3-Clause": rf"{_UNDER}(?:(?:3|three)\s+clause|new|modified|revised)\s+bsd\s+licen[cs]e|{_UNDER}bsd\s+3\s+clause",
    "ISC": rf"{_UNDER}isc\s+licen[cs]e",
    "Zlib": rf"{_UNDER}zlib\s+licen[cs]e",
}
# Whoever gives no warranty, and is not liable, in the words of ISC: some texts name a firm. BSD's are told apart by theirs.
_DISCLAIMS = re.compile(r"(\bas\s+is\W+and\s+)[^.;:]{1,90}?(\s+disclaims?\b)", re.IGNORECASE)
_LIABLE = re.compile(
    r"(\bin\s+no\s+event\s+(?:shall|will)\s+)[^.;:]{1,160}?(\s+be\s+liable\b)", re.IGNORECASE
)
_FILE_NAMES = re.compile(r"(?:un)?licen[cs]es?(?:[._-].*)?|copying(?:[._-].*)?", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """A licence in a text, or OWN_WORDS; ties: others that its words fit as well."""

    id: str
    ties: tuple[str, ...] = ()

    def allowed(self, allow: Sequence[str]) -> bool:
        """Whether it is on the list, and nothing that it may be is off it."""
        if self.id == OWN_WORDS:
            return True
        return self.id in allow and all(other in allow for other in self.ties)


class Licences:
    """The texts of licences: identifier -> text; allow: those whose variants are known too (data_mix.curate.clauses)."""

    def __init__(self, texts: Mapping[str, str], allow: Sequence[str] = ()) -> None:
        self._clauses = Clauses({name: texts[name] for name in allow if name in texts})
        whole = sorted(texts.items())
        # Many leave out how to apply it; what is left is the licence all the same.
        cut = [(name, _APPENDIX.split(text)[0]) for name, text in whole if _APPENDIX.search(text)]
        self._ids = [name for name, _ in [*whole, *cut]]
        grams = [np.unique(hashed(_plain(text)).runs(_WORDS)) for _, text in [*whole, *cut]]
        self._sizes = np.array([max(len(own), 1) for own in grams])
        owners = np.repeat(np.arange(len(grams)), [len(own) for own in grams])
        numbers = np.concatenate([np.zeros(0, np.uint64), *grams])
        order = np.argsort(numbers, kind="stable")
        self._numbers, self._owners = numbers[order], owners[order]

    def of_text(self, text: str) -> list[Found]:
        """The licences whose texts are in this one, the likest first; then what its other words name.

        One that is in it counts where it says something that those before it do not, and the text says
        that too: a text with one clause more is there only where that clause is.
        """
        given, text = text, _plain(text)
        runs = hashed(text).runs(_WORDS)
        own = np.unique(runs)
        contained = self._in_one_place(runs, self._shared(own) / self._sizes)
        explained, out = np.zeros(0, np.uint64), list[Found]()
        for place in self._likest_first(contained):
            further = self._further(place, explained)
            if len(further) > _FEW and np.isin(further, own).mean() >= _OWN_CLAUSE:
                ties = self._ties(place, contained)
                others = {self._ids[n] for n in ties} - {self._ids[place]}
                out.append(Found(self._ids[place], tuple(sorted(others))))
                explained = np.union1d(explained, np.concatenate([*map(self._of, [place, *ties])]))
        left = _HISTORY.sub(" ", _left_of(text, np.isin(runs, explained)))
        out += (Found(name) for name in named_in(left, all_said=not out))
        return out or ([Found(OWN_WORDS)] if self._clauses.make_up(given) else [])

    def _in_one_place(self, runs: np.ndarray, contained: np.ndarray) -> np.ndarray:
        """How much of each licence that is in a text stands in one place of it [licences]."""
        out = contained.copy()
        for place in np.flatnonzero(contained >= _CONTAINED):
            places = np.flatnonzero(np.isin(runs, self._of(int(place))))
            ends = np.searchsorted(places, places + _SPREAD * self._sizes[place] + _WORDS)
            most = (ends - np.arange(len(places))).max()
            out[place] = min(contained[place], most / self._sizes[place])
        return out

    def _likest_first(self, contained: np.ndarray) -> list[int]:
        """The licences that are in a text, by how whole they are; among equals the longest first."""
        inside = np.flatnonzero(contained >= _CONTAINED)
        whole = np.floor((1 - contained[inside]) / _TIE)
        return [int(n) for n in inside[np.lexsort((-self._sizes[inside], whole))]]

    def _of(self, place: int) -> np.ndarray:
        """The runs of a licence."""
        return self._numbers[self._owners == place]

    def _further(self, place: int, explained: np.ndarray) -> np.ndarray:
        return np.setdiff1d(self._of(place), explained)

    def _ties(self, place: int, contained: np.ndarray) -> list[int]:
        """Licences that are in the text as well, and hold all of this one's words."""
        own = self._of(place)
        shared = self._shared(own)
        full = (contained >= contained[place] - _TIE) & (shared >= (1 - _TIE) * len(own))
        return [int(n) for n in np.flatnonzero(full) if n != place]

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


def _plain(text: str) -> str:
    """One name for whoever disclaims all warranties."""
    text, found = _DISCLAIMS.subn(r"\1the authors\2", text)
    return _LIABLE.sub(r"\1the authors\2", text) if found else text


def _left_of(text: str, explained: np.ndarray) -> str:
    """The words that are in none of the runs that are explained [runs].

    A part between two that are explained, and that says what must or may not be done, is marked: it is a
    condition that none of the licences has.
    """
    tokens, weights = words(text)
    if weights is not None or not explained.any():
        # In scripts without blanks runs are of other lengths: all of it is left.
        return " ".join(tokens)
    gone = np.zeros(len(tokens) + 1, np.int64)
    starts = np.flatnonzero(explained)
    np.add.at(gone, starts, 1)
    np.add.at(gone, np.minimum(starts + _WORDS, len(tokens)), -1)
    inside = np.cumsum(gone)[:-1] > 0
    first, last = np.flatnonzero(inside)[[0, -1]]
    parts = []
    for known, group in groupby(range(len(tokens)), key=lambda n: bool(inside[n])):
        places = list(group)
        part = " ".join(tokens[n] for n in places)
        between = first < places[0] < last and len(places) > _FEW_WORDS
        if not known:
            parts.append(
                f"{part} {_CONDITION}"
                if between and _OBLIGES.search(_USUAL.sub("", part))
                else part
            )
    return " ".join(parts)


def named_in(said: str, *, all_said: bool = True) -> list[str]:
    """Licences that words name without their text. all_said: permissive ones count too; else, where a
    licence's own text was found, what is left can only forbid.

    >>> named_in("released under the MIT license"), named_in("derived from code under CNRI s license")
    (['MIT'], ['copyleft or unknown, by name'])
    """
    if _COPYLEFT.search(said) or _CONDITION in said:
        return ["copyleft or unknown, by name"]
    plain = " ".join(re.findall(r"\w+", said.lower()))
    return [name for name, notice in _NOTICES.items() if all_said and re.search(notice, plain)]


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


def spdx_in(text: str) -> list[str]:
    """The SPDX expressions in a header, each once. All of them apply, as REUSE has it."""
    found = (said.strip().removesuffix("-->").strip() for said in _SPDX.findall(header_of(text)))
    return list(dict.fromkeys(found))


def licence_files(path: Path) -> list[Path]:
    """The licence files of the nearest folder upward that has any."""
    for folder in path.resolve().parents:
        found = sorted(f for f in folder.iterdir() if _FILE_NAMES.fullmatch(f.name) and f.is_file())
        if found:
            return found
    return []
