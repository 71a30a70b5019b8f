"""The inference rule of thinking budgets (facts: paper, section 3.4), token by token.

The rule is a pure function of the ids so far, so what it forced can be told afterwards by replay.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from budget.vocabulary import CLOSE, OPEN, ThinkVocabulary, vocabulary_of
from workbench.errors import UserError

RuleName = Literal["newline", "card"]
# The public client of the model card appends ".\n</think>\n\n" to a trace that it cuts.
_CARD_LEAD, _CARD_TAIL = ".\n", "\n\n"


@dataclass(frozen=True)
class BudgetRule:
    """Close the thinking at the first newline from `budget` on, or by force `grace` tokens later.

    Closing starts when n >= budget and the last id is a newline, or n >= budget + grace, where n is
    the number of thinking tokens; budget 0 closes at once. Then the ids of the closing tag are forced
    one by one; a tag that the model has begun is finished, not begun anew. Nothing is forced once the
    trace is closed.

    budget, grace: tokens. close_ids: `</think>`. newline_ids: ids whose text holds a newline.
    lead_ids, tail_ids: forced before (unless the tag is begun) and after the tag.
    vocabulary: with it the model's own closing tag is seen in any spelling, not only as close_ids,
    and prompts are searched for the start of the trace.
    """

    budget: int
    grace: int = 500
    close_ids: tuple[int, ...] = ()
    newline_ids: Collection[int] = field(default=(), repr=False)
    lead_ids: tuple[int, ...] = ()
    tail_ids: tuple[int, ...] = ()
    vocabulary: ThinkVocabulary | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.budget < 0 or self.grace < 0:
            raise UserError(
                f"thinking budget {self.budget} with grace {self.grace}: both must be 0 or more "
                "tokens (leave the budget out for no limit)"
            )
        if not self.close_ids:
            raise UserError("close_ids is empty; give the ids of </think>, or use for_tokenizer")
        if not isinstance(self.newline_ids, frozenset):
            object.__setattr__(self, "newline_ids", frozenset(self.newline_ids))
        for name in ("close_ids", "lead_ids", "tail_ids"):  # a tokenizer gives lists
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @classmethod
    def for_tokenizer(
        cls, tokenizer: Any, budget: int, grace: int = 500, rule: RuleName = "newline"
    ) -> "BudgetRule":
        """The rule with a tokenizer's ids.

        rule: "newline" is the paper's; "card" is the model card's simpler one, which closes at the
        budget without waiting, by ".\\n</think>\\n\\n" (grace is then unused).
        """
        known = vocabulary_of(tokenizer)
        if rule == "newline":
            return cls(budget, grace, known.close_ids, known.newline_ids, vocabulary=known)
        if rule != "card":
            raise UserError(f"thinking rule {rule!r}; allowed: newline, card")
        lead, tail = (
            tuple(tokenizer.encode(text, add_special_tokens=False))
            for text in (_CARD_LEAD, _CARD_TAIL)
        )
        return cls(budget, 0, known.close_ids, lead_ids=lead, tail_ids=tail, vocabulary=known)

    @property
    def most_thinking_tokens(self) -> int:
        """The longest trace the rule allows, closing tag included."""
        return self.budget + self.grace + len(self.lead_ids + self.close_ids + self.tail_ids)

    def next_forced(self, thinking_ids: Sequence[int]) -> int | None:
        """The id to force after these tokens, or None where the model chooses (or has closed).

        `thinking_ids` are all tokens since the trace began, forced ones included. Reads them all: a
        decoding loop keeps a `state` instead.
        """
        state = BudgetState(self)
        for token in thinking_ids:
            state.push(token)
        return state.forced

    def state(self, prompt_ids: Sequence[int] = ()) -> "BudgetState":
        """The state after a prompt, which may hold a part of the trace, or all of it.

        Without a vocabulary the trace is taken to begin where the prompt ends. A prompt whose last
        turn opens no trace waits for the model to open one.
        """
        if self.vocabulary is None or not prompt_ids:
            return BudgetState(self)
        found = self.vocabulary.trace_start(prompt_ids)
        if found is None:
            return BudgetState(self, opened=False)
        start, carried = found
        state = BudgetState(self, carried=carried)
        for token in prompt_ids[start:]:
            state.push(token)
        return state


class BudgetState:
    """Where one sequence stands under a rule. `push` each token; `forced` is the next one's id.

    phase: "waiting" for `<think>`, "thinking", "closing" or "closed". thinking_tokens: tokens of the
    trace, its closing tag included. A sequence that does not take a forced id (the part of a trace
    in a prompt, or a replay) thinks on until closing is due again.
    """

    def __init__(self, rule: BudgetRule, *, opened: bool = True, carried: str = "") -> None:
        self.rule = rule
        self.phase: Literal["waiting", "thinking", "closing", "closed"] = "waiting"
        self.thinking_tokens = 0
        self._queue: tuple[int, ...] = ()
        self._recent: tuple[int, ...] = ()
        self._text = ""
        if opened:
            self._open(carried)

    @property
    def forced(self) -> int | None:
        """The id that must come next, or None where the model chooses."""
        return self._queue[0] if self._queue else None

    def push(self, token: int) -> None:
        """Take note of the next token of the sequence, whoever chose it."""
        if self.phase == "closed":
            return
        if self.phase == "waiting":
            if self._spells(token, OPEN):
                self._open(self._text.partition(OPEN)[2])
            return
        self.thinking_tokens += 1
        self._recent = (*self._recent, token)[-len(self.rule.close_ids) :]
        if self._queue and token == self._queue[0]:
            self._spells(token, CLOSE)
            self._queue = self._queue[1:]
            self.phase = "closing" if self._queue else "closed"
        elif self._spells(token, CLOSE) or self._recent == self.rule.close_ids:
            self._queue, self.phase = (), "closed"
        else:
            self._queue, self.phase = (), "thinking"
            if self._is_due(token):
                self._start_closing()

    def _open(self, carried: str) -> None:
        self.phase, self._text = "thinking", carried
        if CLOSE in carried:
            self.phase = "closed"
        elif self.rule.budget == 0:
            self._start_closing()

    def _is_due(self, token: int) -> bool:
        over = self.thinking_tokens - self.rule.budget
        newline = over >= 0 and token in self.rule.newline_ids
        return newline or over >= self.rule.grace or self.rule.budget == 0

    def _start_closing(self) -> None:
        rest = self._rest_of_tag()
        lead = self.rule.lead_ids if rest == self.rule.close_ids else ()
        self._queue = lead + rest + self.rule.tail_ids
        self.phase = "closing"

    def _rest_of_tag(self) -> tuple[int, ...]:
        """The ids of the closing tag that are still missing: all, or fewer where it is begun."""
        close, known = self.rule.close_ids, self.rule.vocabulary
        for size in range(len(close) - 1, 0, -1):
            if self._recent[-size:] == close[:size]:
                return close[size:]
        if known is not None:
            for size in range(len(CLOSE) - 1, 0, -1):
                if self._text.endswith(CLOSE[:size]):
                    return known.rest_ids[size]
        return close

    def _spells(self, token: int, tag: str) -> bool:
        """Whether the text so far, which `token` continues, now holds the tag."""
        if self.rule.vocabulary is None:
            return False
        text = self._text + self.rule.vocabulary.text(token)
        # As much as may hold the start of a tag; of an opening tag also what follows it in the token.
        self._text = text if tag == OPEN and tag in text else text[-(len(CLOSE) - 1) :]
        return tag in text


def forced_mask(
    prompt_ids: Sequence[int], token_ids: Sequence[int], rule: BudgetRule
) -> list[bool]:
    """For each sampled token whether the rule, not the model, chose it: a replay of the rule.

    A token counts as forced even where the model would have chosen the same.
    """
    state = rule.state(prompt_ids)
    mask = []
    for token in token_ids:
        mask.append(state.forced is not None)
        state.push(token)
    return mask
