"""Whether a text asks for no more than allowed licences do: variants of them that no list has.

BSD's, HPND's and MIT's words are rearranged by whoever uses them: a clause less, "any existing copyright notice" for
"the above copyright notice", another disclaimer. Each sentence of such a text is held against the allowed licences'
words. It passes where all its words stand in their runs, but for words that say which notices are meant; or where it
only disclaims or says whose the text is. One sentence that does not pass, and nothing is known of the text.
"""

import re
from collections.abc import Mapping

import numpy as np

from data_mix.hashed_runs import hashed
from data_mix.words import words

_WORDS = 5
# A list's number, a heading: no sentence of so few words is a condition.
_FEW = 2
_SENTENCE = re.compile(r"(?<=[.;:])\s+|\n\s*\n|\n\s*(?=[(*-]?\s*\w{1,2}[.)]\s)")
_MARKS = re.compile(r"^[ \t]*(?://+|[*#;%|]+|/\*+|--)[ \t]?", re.MULTILINE)
_GRANTS = re.compile(r"\b(?:granted|permitted)\b")
# Whose name may not be used, and the thing that is given: anybody's, anything.
_NAME = re.compile(
    r"(\bnames? of )[^.;:]{1,90}?(\s(?:may |must |shall |can )?(?:not )?be used\b)", re.IGNORECASE
)
_THING = re.compile(r"(\bbinary forms) of \w+", re.IGNORECASE)
# Which notices, and whose. Nothing here can be asked for but to keep them.
_NOTICES = frozenset(re.findall(r"\w+", """
    a above all an and any appear appears are author authors be by complete conditions contributor
    contributors copyright copyrights current disclaimer disclaimers each entire entirety every existing
    express following from holder holders in include included includes including intact is it its list
    must name names nor notice notices of or original other our owner owners permission previous prior
    reproduce reproduced retain retained shall specific such that the their these this to unmodified
    warranties warranty whole with written your
"""))  # fmt: skip
_STATES = re.compile(
    r"\bwarrant|\bliab|\bas is\b|\bresponsib|\bdamages\b|\brepresentations?\b|\bfree software\b|\bcopyright\b"
    r"|\brights reserved\b|\bauthors? (?:of|is|are)\b|\bwritten by\b|\bown risk\b"
)
_ASKS = re.compile(
    r"\b(?:must|shall|should|will|may|can(?:not)?|need\w*|have to|has to|provided that|provided the|permitted|permission|only"
    r"|unless|except|require\w*|agree\w*|restrict\w*|prohibit\w*|forb\w+|conditions?|licen[cs]e\w*|granted|fees?|pay\w*)\b"
)
# For whom or what it is, said as a statement: as good as a condition.
_LIMITS = re.compile(
    r"\b(?:commercial\w*|academic|education\w*|research|personal|evaluation|military|internal|exclud\w*|not for|use only"
    r"|confidential)\b"
)
_NOT_LIABLE = re.compile(
    r"\b(?:shall|will) (?:not )?(?:\w+ ){0,40}?(?:be (?:held )?(?:liable|responsible)|have (?:no|any) liability)\b"
    r"|\bwill be useful\b|\bmay not be held\b"
)


class Clauses:
    """The words of licences that are allowed: identifier -> text."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        runs = [hashed(_plain(text)).runs(_WORDS) for _, text in sorted(texts.items())]
        self._known = np.unique(np.concatenate([np.zeros(0, np.uint64), *runs]))

    def make_up(self, text: str) -> bool:
        """Whether the text grants something, and asks for nothing that these licences do not ask for."""
        sentences = [part for part in _SENTENCE.split(_plain(text)) if part.strip()]
        grants = False
        for sentence in sentences:
            tokens, weights = words(sentence)
            if weights is not None:
                return False
            left = self._left(sentence, tokens)
            if _GRANTS.search(" ".join(tokens)) and len(left) <= len(tokens) / 2:
                grants = True
            if not (set(left) <= _NOTICES or _says_little(tokens)):
                return False
        return grants

    def _left(self, sentence: str, tokens: list[str]) -> list[str]:
        """The words that are in none of the licences' runs."""
        known = np.isin(hashed(sentence).runs(_WORDS), self._known)
        gone = np.zeros(len(tokens), bool)
        for start in np.flatnonzero(known):
            gone[start : start + _WORDS] = True
        return [
            token
            for token, known in zip(tokens, gone, strict=True)
            if not known and not token.isdigit() and len(token) > 1
        ]


def _says_little(tokens: list[str]) -> bool:
    """Whether it is a heading, or only states what is, and for nobody alone."""
    few = len(tokens) <= _FEW or _only_states(tokens)
    return few and not _LIMITS.search(" ".join(tokens))


def _only_states(tokens: list[str]) -> bool:
    said = _NOT_LIABLE.sub(" ", " ".join(tokens))
    return bool(_STATES.search(said)) and not _ASKS.search(said)


def _plain(text: str) -> str:
    text = _THING.sub(r"\1", _MARKS.sub("", text))
    return _NAME.sub(r"\1the authors\2", text)
