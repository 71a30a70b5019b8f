"""The budget rule against a slow reference on random token streams."""

import random
from collections.abc import Sequence

import pytest

from budget.control import BudgetRule, forced_mask
from workbench.errors import UserError

CLOSE = (7, 8, 9)
NEWLINES = frozenset({1, 2})


def reference(rule: BudgetRule, ids: Sequence[int]) -> int | None:
    """What must follow `ids`: every prefix looked at anew, in the words of the rule (no state).

    `ids` took every forced id. An occurrence of the tag, the model's own or a forced one, ends it.
    """
    width = len(rule.close_ids)
    for n in range(len(ids) + 1):
        before = tuple(ids[:n])
        if any(before[i : i + width] == rule.close_ids for i in range(n - width + 1)):
            return None
        newline = bool(before) and before[-1] in rule.newline_ids
        if n >= rule.budget + rule.grace or (n >= rule.budget and (newline or rule.budget == 0)):
            begun = max(
                size for size in range(width) if before[n - size :] == rule.close_ids[:size]
            )
            sequence = (() if begun else rule.lead_ids) + rule.close_ids[begun:] + rule.tail_ids
            left = sequence[len(ids) - n :]
            return left[0] if left else None
    return None


def random_rule(rng: random.Random) -> BudgetRule:
    # Tags that overlap themselves are the hard case of "finish what the model began".
    close = rng.choice([(7,), (7, 8), CLOSE, (7, 7, 8), (7, 8, 7), (1, 7)])
    return BudgetRule(
        rng.randint(0, 6),
        rng.randint(0, 4),
        close,
        NEWLINES,
        lead_ids=rng.choice([(), (5,), (5, 1)]),
        tail_ids=rng.choice([(), (1,), (1, 1)]),
    )


def test_ten_thousand_random_streams_agree_with_the_reference() -> None:
    rng = random.Random(0)
    seen = {True: 0, False: 0}
    for _ in range(10_000):
        rule = random_rule(rng)
        out: list[int] = []
        forced: list[bool] = []
        state = rule.state()
        while len(out) < 14:
            must = reference(rule, out)
            assert state.forced == must
            forced.append(must is not None)
            out.append(rng.randint(1, 9) if must is None else must)
            state.push(out[-1])
        cut = rng.randrange(15)
        assert rule.next_forced(out[:cut]) == reference(rule, out[:cut])
        assert forced_mask([3, 3], out, rule) == forced
        seen[any(forced)] += 1
    assert min(seen.values()) > 500  # both kinds of stream were tried


def test_ids_may_be_lists_as_tokenizers_give_them() -> None:
    rule = BudgetRule(3, close_ids=[5, 6], lead_ids=[1], tail_ids=[2])  # type: ignore[arg-type]
    assert rule == BudgetRule(3, close_ids=(5, 6), lead_ids=(1,), tail_ids=(2,))
    assert rule.next_forced([9, 5, 6, 9, 9, 9]) is None  # the model closed it
    assert BudgetRule(2, 0, [5, 6]).next_forced([9, 9]) == 5  # type: ignore[arg-type]


def test_a_budget_of_0_closes_at_once() -> None:
    rule = BudgetRule(0, 500, CLOSE, NEWLINES)
    assert [rule.next_forced(CLOSE[:n]) for n in range(4)] == [7, 8, 9, None]


def test_the_papers_rule_waits_for_a_newline_at_most_500_tokens() -> None:
    rule = BudgetRule(10, close_ids=CLOSE, newline_ids=NEWLINES)  # [paper] grace 500
    assert rule.next_forced([1] * 9) is None
    assert rule.next_forced([5] * 9 + [1]) == 7
    assert rule.next_forced([5] * 10 + [2]) == 7
    assert rule.next_forced([5] * 509) is None
    assert rule.next_forced([5] * 510) == 7
    assert rule.most_thinking_tokens == 513


def test_a_tag_that_the_model_began_is_finished() -> None:
    rule = BudgetRule(2, 2, CLOSE, NEWLINES)
    assert rule.next_forced([5, 5, 7, 8]) == 9
    assert rule.next_forced([5, 7, 8, 7]) == 8
    assert rule.next_forced([5, 7, 8, 9]) is None


def test_tokens_are_forced_even_where_the_model_would_have_chosen_them() -> None:
    rule = BudgetRule(2, 500, CLOSE, NEWLINES)
    assert forced_mask([], [5, 1, 7, 8, 9, 4], rule) == [False, False, True, True, True, False]
    # Without the newline the very same tag is the model's own.
    assert forced_mask([], [5, 5, 7, 8, 9, 4], rule) == [False] * 6


def test_a_sequence_that_did_not_obey_thinks_on_until_closing_is_due_again() -> None:
    rule = BudgetRule(2, 4, CLOSE, NEWLINES)
    assert rule.next_forced([5, 1, 5]) is None  # the newline passed by without closing
    assert rule.next_forced([5, 1, 5, 1]) == 7
    assert rule.next_forced([5, 1, 5, 5, 5, 5]) == 7
    assert BudgetRule(0, 4, CLOSE, NEWLINES).next_forced([5]) == 7


@pytest.mark.parametrize(
    ("budget", "grace", "close", "says"),
    [(-1, 0, CLOSE, "0 or more"), (1, -1, CLOSE, "0 or more"), (1, 1, (), "close_ids is empty")],
)
def test_a_rule_without_sense_is_refused(
    budget: int, grace: int, close: tuple[int, ...], says: str
) -> None:
    with pytest.raises(UserError, match=says):
        BudgetRule(budget, grace, close)
