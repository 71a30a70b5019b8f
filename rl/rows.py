"""Rows are looked at before anything is sampled for them: what cannot be asked or checked is named.

One bad row among thousands would otherwise end a run hours later, or be a failed sample in each pass.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from data_mix.columns import ColumnsConfig
from data_mix.config import CleanConfig, JsonlSource, ParquetSource, SourceConfig
from data_mix.inputs import LOOKED_AT, uncleaned
from data_mix.sources import open_source
from data_mix.supervised import Drawn, look_at
from environments.protocol import Task
from reward.options import check_options, check_reference
from workbench.chat.template import content_of
from workbench.conversation import Conversation, Message
from workbench.errors import UserError
from workbench.identity import must_be_own, used_twice

UNREADABLE = "unreadable"
_ROLES = ("system", "user", "assistant", "tool")
_SHOWN = 3


class RowProblem(NamedTuple):
    """Why a row cannot be used. reason: what it is counted under. row: its id, "" where it has none.

    Example: RowProblem("check", "q7", "a.jsonl, line 8", "the reference of its math check is null")
    """

    reason: str
    row: str
    place: str
    text: str

    def __str__(self) -> str:
        if self.place in self.text and not self.row:
            return self.text
        named = self.row and self.place not in self.row  # the place stands in for a missing id
        return (
            f"row {self.row!r:.80} ({self.place}): {self.text}"
            if named
            else (f"{self.place}: {self.text}")
        )


@dataclass(frozen=True)
class Rules:
    """What a stage asks of its rows. checked: each needs a check. skip_bad: leave bad rows out.
    options: what each check takes over its own. fits: why a prompt cannot be sent to the engine, or "";
    may raise UserError."""

    checked: bool
    skip_bad: bool
    options: Mapping[str, Any] = field(default_factory=dict)
    fits: Callable[[Conversation], str] | None = None


def take_rows(
    source: SourceConfig, count: int, rules: Rules, *, name: str, seed: int
) -> tuple[list[Conversation], dict[str, Any]]:
    """`count` conversations that can be asked and checked, and the account of those that cannot.

    Raises: UserError naming the first bad row, or with `skip_bad` where no row is left.
    """
    drawn = list(look_at(open_source(source, name=name, seed=seed, lenient=True), count))
    # What is generated here has references that can be read.
    problems = find_problems(drawn, rules, read_references=isinstance(source, ColumnsConfig))
    return good_rows(drawn, problems, rules, name=name)


def look_ahead(source: JsonlSource | ParquetSource, rules: Rules, *, name: str) -> str:
    """One line on the rows of local files, of which up to LOOKED_AT are looked at.

    Not known yet: how long prompts are in tokens, what workers read of references, and which rows `clean`
    will leave (then only rows that cannot be read are bad). Raises: UserError, see `take_rows`.
    """
    opened = open_source(uncleaned(source), name=name, seed=0, lenient=True)
    held = opened.size or 0
    drawn = list(look_at(opened, min(held, LOOKED_AT)))
    problems = find_problems(drawn, rules)
    if source.clean != CleanConfig():
        problems = {n: found for n, found in problems.items() if found.reason == UNREADABLE}
    good_rows(drawn, problems, rules, name=name)
    line = f"{name}: {len(drawn):,} of {held:,} rows looked at"
    if len(drawn) < held:
        line += " (the others before anything is sampled)"
    reasons = Counter(problem.reason for problem in problems.values())
    return (
        f"{line}; skip_bad leaves out {len(problems):,} ({_counts(reasons)})" if problems else line
    )


def find_problems(
    drawn: Sequence[Drawn], rules: Rules, *, read_references: bool = False
) -> dict[int, RowProblem]:
    """Number -> what is wrong with that row, for each that is bad."""
    found = {}
    for number, row in enumerate(drawn):
        given = row.conversation
        reason, text = (UNREADABLE, row.problem) if given is None else _wrong(given, rules)
        if text:
            found[number] = RowProblem(reason, "" if given is None else given.id, row.place, text)
    if read_references:
        found |= _unreadable_references(_left(drawn, found), rules)
    # Among the good ones: a row that is left out takes no id from another.
    left = sorted(_left(drawn, found), key=lambda row: _place_key(row[2]))
    for place, text in used_twice([c.id for _, c, _ in left], [where for _, _, where in left]):
        number, given, where = left[place]
        found[number] = RowProblem("id", given.id, where, text)
    return found


def _left(
    drawn: Sequence[Drawn], found: Mapping[int, RowProblem]
) -> list[tuple[int, Conversation, str]]:
    """(number, conversation, place) of the rows in which nothing was found."""
    return [
        (number, row.conversation, row.place)
        for number, row in enumerate(drawn)
        if row.conversation is not None and number not in found
    ]


def _unreadable_references(
    left: Sequence[tuple[int, Conversation, str]], rules: Rules
) -> dict[int, RowProblem]:
    def wrong(row: tuple[int, Conversation, str]) -> str:
        check = row[1].check
        try:
            if check is not None:
                check_reference(check, rules.options)
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(max_workers=2) as threads:
        texts = list(threads.map(wrong, left))
    return {
        number: RowProblem("check", given.id, where, text)
        for (number, given, where), text in zip(left, texts, strict=True)
        if text
    }


def good_rows(
    drawn: Sequence[Drawn], problems: Mapping[int, RowProblem], rules: Rules, *, name: str
) -> tuple[list[Conversation], dict[str, Any]]:
    """What is left of the rows, and the account. Raises: UserError, see `take_rows`."""
    account = account_of(len(drawn), list(problems.values()), skip_bad=rules.skip_bad, name=name)
    good = [d.conversation for n, d in enumerate(drawn) if n not in problems and d.conversation]
    return good, account


def good_tasks(
    tasks: Sequence[Task], fits: Callable[[Task], str], *, skip_bad: bool, name: str
) -> tuple[list[Task], dict[str, Any]]:
    """The tasks of an environment whose first prompt fits, and the account. Raises: UserError."""
    must_be_own([task.id for task in tasks], what=name)
    texts = [fits(task) for task in tasks]
    problems = [
        RowProblem("prompt", task.id, f"task {number}", text)
        for number, (task, text) in enumerate(zip(tasks, texts, strict=True), start=1)
        if text
    ]
    account = account_of(len(tasks), problems, skip_bad=skip_bad, name=name)
    return [task for task, text in zip(tasks, texts, strict=True) if not text], account


def account_of(
    count: int, problems: Sequence[RowProblem], *, skip_bad: bool, name: str
) -> dict[str, Any]:
    """What was left out. Raises: UserError where nothing may be, or where nothing would be left."""
    first = sorted(problems, key=lambda problem: _place_key(problem.place))
    if first and not skip_bad:
        more = f"; {len(first) - 1:,} more are bad" if len(first) > 1 else ""
        raise UserError(
            f"{name}: {first[0]}{more}. Mend them, or set skip_bad: true to leave bad ones out"
        )
    if count and len(first) == count:
        raise UserError(f"{name}: all {count:,} are bad; the first: {first[0]}")
    account: dict[str, Any] = {"rows": count, "kept": count - len(first)}
    if first:
        account["left_out"] = dict(Counter(problem.reason for problem in first))
        account["first_left_out"] = [str(problem) for problem in first[:_SHOWN]]
    return account


def warnings_of(accounts: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A line for the report for each source of which rows were left out."""
    return [
        f"{name}: {account['rows'] - account['kept']:,} of {account['rows']:,} rows left out "
        f"(skip_bad; {_counts(account['left_out'])}): {account['first_left_out'][0]}"
        for name, account in accounts.items()
        if account.get("left_out")
    ]


def too_long(size: int, max_tokens: int, longest: int) -> str:
    """Why a prompt of `size` tokens has no room for a reply in the engine, or ""."""
    if size + max_tokens <= longest:
        return ""
    return (
        f"its prompt has {size:,} tokens, which with max_tokens {max_tokens:,} is more than "
        f"engine.max_model_len {longest:,}"
    )


def _wrong(row: Conversation, rules: Rules) -> tuple[str, str]:
    """(reason, what is wrong), or two empty texts."""
    if text := misplaced(row.prompt):
        return "messages", text
    if row.check is None and rules.checked:
        return "check", "it has no check; replies to it cannot be scored"
    reason = "check"
    try:
        if row.check is not None:
            check_options(row.check, rules.options)
        reason = "prompt"
        text = rules.fits(row) if rules.fits is not None else ""
    except UserError as error:
        text = str(error)
    return (reason, text) if text else ("", "")


def misplaced(prompt: Sequence[Message]) -> str:
    """What is wrong with the messages of a prompt: their roles, their order, or nothing being asked."""
    roles = [message.get("role") for message in prompt]
    if unknown := [role for role in roles if role not in _ROLES]:
        return f"message role {unknown[0]!r}; allowed: {', '.join(_ROLES)}"
    if "user" not in roles:
        return "it asks nothing: there is no user message"
    for place, (before, role) in enumerate(zip([None, *roles], roles, strict=False)):
        if role == "system" and place:
            return "a system message stands after the first place"
        if role == "assistant" and before == "assistant":
            return "two assistant messages follow one another"
        if role == "tool" and before not in ("assistant", "tool"):
            return "a tool message follows no call"
    if roles[-1] not in ("user", "tool"):
        return f"its prompt ends with a {roles[-1]} message"
    try:
        asked = [content_of(message) for message in prompt if message["role"] == "user"]
    except UserError as error:
        return str(error)
    if any("\ud800" <= letter <= "\udfff" for text in asked for letter in text):
        return "a user message has half of a character pair (a lone surrogate), which is not text"
    return "" if all(text.strip() for text in asked) else "a user message is empty"


def _place_key(place: str) -> tuple[str, int]:
    """File by file, line by line."""
    head, _, number = place.rpartition(" ")
    return head, int(number) if number.isdigit() else 0


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in counts.items())
