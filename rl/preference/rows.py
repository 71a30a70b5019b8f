"""Given preferences as rows: looked at one by one, rendered as SFT renders them, counted. No torch."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from data_mix.config import SourceConfig
from data_mix.inputs import LOOKED_AT, check_data, is_elsewhere, uncleaned
from data_mix.preferences import Labelled, Preference
from data_mix.sources import Source, open_source
from rl.preference.config import PreferenceConfig
from rl.rows import UNREADABLE, RowProblem, account_of
from workbench.chat import render
from workbench.conversation import Conversation
from workbench.errors import UserError

Given = Preference | Labelled


def take_given(
    source: SourceConfig, count: int, *, skip_bad: bool, name: str, seed: int
) -> tuple[list[Given], dict[str, Any]]:
    """`count` preferences, without those that teach nothing, and the account. Raises: UserError."""
    return _good(open_source(source, name=name, seed=seed, lenient=True), count, skip_bad, name)


def check_given(config: PreferenceConfig) -> list[str]:
    """What was looked at of local files, a line each. Raises: UserError naming the first bad row."""
    sources = (("source", config.source), ("held_out", config.held_out))
    check_data(config, disjoint_rows=("source", "held_out"))
    return [line for name, given in sources for line in look_at_given(given, config.skip_bad, name)]


def look_at_given(source: Any, skip_bad: bool, name: str) -> Iterator[str]:
    """One line on the rows of a local file. Raises: UserError naming the first bad one."""
    if is_elsewhere(source) or source.type == "hub":
        return
    opened = open_source(uncleaned(source), name=name, seed=0, lenient=True)
    held = opened.size or 0
    seen = min(held, LOOKED_AT)
    _, account = _good(opened, seen, skip_bad, name)
    line = f"{name}: {seen:,} of {held:,} rows looked at"
    left_out = account.get("left_out")
    if left_out:
        reasons = ", ".join(f"{reason} {number:,}" for reason, number in left_out.items())
        line += f"; skip_bad leaves out {sum(left_out.values()):,} ({reasons})"
    yield line


def _good(
    opened: Source, count: int, skip_bad: bool, name: str
) -> tuple[list[Given], dict[str, Any]]:
    good, problems = list[Given](), list[RowProblem]()
    for document, place in opened.look(count):
        if isinstance(document, UserError):
            problems.append(RowProblem(UNREADABLE, "", place, str(document)))
        elif isinstance(document, str | Conversation):
            raise UserError(f"source {name!r} gives no preferences; set form: pairs or labelled")
        elif text := document.problem:
            problems.append(RowProblem("preference", document.id, place, text))
        else:
            good.append(document)
    return good, account_of(count, problems, skip_bad=skip_bad, name=name)


def pair_rows(
    pairs: Sequence[Preference], tokenizer: Any, *, thinking: bool, row_tokens: int
) -> tuple[list[dict[str, Any]], int]:
    """Columns of `rl.dpo.trainer.PairCollator`, `prompt` beside them; and how many were too long."""
    rows = []
    for pair in pairs:
        row: dict[str, Any] = {"prompt": asked_of(pair.chosen)}
        for name, side in zip(("chosen", "rejected"), pair.conversations, strict=True):
            ids, mask = _rendered(side, tokenizer, thinking)
            row |= {f"{name}_ids": ids, f"{name}_mask": mask, f"{name}_seq": [0] * len(ids)}
        rows.append(row)
    kept = [r for r in rows if max(len(r["chosen_ids"]), len(r["rejected_ids"])) <= row_tokens]
    return kept, len(rows) - len(kept)


def labelled_rows(
    replies: Sequence[Labelled], tokenizer: Any, *, thinking: bool, row_tokens: int
) -> tuple[list[dict[str, Any]], int]:
    """prompt_ids, completion_ids and label, as TRL's KTO has them; and how many were too long."""
    rows = list[dict[str, Any]]()
    for reply in replies:
        ids, mask = _rendered(reply.conversation, tokenizer, thinking)
        first, end = mask.index(1), len(mask) - mask[::-1].index(1)
        if 0 in mask[first:end]:
            raise UserError(
                f"{reply.id!r:.80}: the chat template puts words of its own inside a reply, which "
                "KTO cannot leave out of the loss; use another template or offline_dpo"
            )
        prompt = asked_of(reply.conversation)
        rows.append(
            {
                "prompt": prompt,
                "prompt_ids": ids[:first],
                "completion_ids": ids[first:end],
                "label": reply.good,
            }
        )
    kept = [r for r in rows if len(r["prompt_ids"]) + len(r["completion_ids"]) <= row_tokens]
    return kept, len(rows) - len(kept)


def counts(values: Sequence[Any]) -> dict[str, int]:
    """How often each stands there, for an account."""
    return {str(value): number for value, number in sorted(Counter(values).items())}


def _rendered(
    conversation: Conversation, tokenizer: Any, thinking: bool
) -> tuple[list[int], list[int]]:
    """The ids and the loss mask: on the last reply alone, as in SFT."""
    done = render(
        conversation.messages,
        tools=conversation.tools,
        thinking=thinking and conversation.thinking,
        tokenizer=tokenizer,
        loss_on="last",
    )
    if not any(done.loss_mask):
        raise UserError(f"{conversation.id!r:.80}: the chat template gives its reply no token")
    return list(done.input_ids), list(done.loss_mask)


def asked_of(conversation: Conversation) -> str:
    """What is asked, as text: rows of one prompt are not independent evidence."""
    return conversation.problem or repr(
        [(m["role"], m.get("content")) for m in conversation.prompt]
    )


def as_conversations(given: Sequence[Given]) -> list[Conversation]:
    """One a row, to tell whether what is held out is trained on."""
    return [replace(row.conversations[0], id=row.id) for row in given]
