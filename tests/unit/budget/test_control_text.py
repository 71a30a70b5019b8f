"""The rule on tokens that cut the tags anywhere, against a slow reference that reads plain text."""

import random
from dataclasses import dataclass

from budget.control import BudgetRule, forced_mask
from budget.vocabulary import ThinkVocabulary

OPEN, CLOSE = "<think>", "</think>"
# 0 to 25: every spelling of the tags can come up, also one token that ends one thing and begins the
# next. 0 is the special token that begins a turn.
TEXTS = (
    "<|turn|>", "<think>", "<", "think", ">", "</", "/think>", "</think>", ">\n", "\n", "\n\n", "a",
    "b.", ".\n", "><", "k>x", "</thin", "thin", "k", "/", "x</", "think><", "hink", "n", "<think>\n", "> <",
)  # fmt: skip
SPECIAL = 0
TAGGED = (2, 3, 5, 6, 9, 14, 21)
CLOSE_IDS = (5, 3, 4)
REST = tuple(
    CLOSE_IDS if n == 0 else (tuple(100 + ord(c) for c in CLOSE[n:])) for n in range(len(CLOSE))
)
"""What is left of a begun tag is spelled in ids of its own, one a character, so that it shows."""
ALL_TEXTS = (*TEXTS, *("" for _ in range(len(TEXTS), 100)), *(chr(n) for n in range(128)))
VOCABULARY = ThinkVocabulary(
    texts=ALL_TEXTS,
    close_ids=CLOSE_IDS,
    newline_ids=frozenset(i for i, text in enumerate(ALL_TEXTS) if "\n" in text),
    special_ids=frozenset({SPECIAL}),
    rest_ids=REST,
)


@dataclass(frozen=True)
class Trace:
    """Where a slow reader finds the trace: its first id, and text of the id before it."""

    start: int
    carried: str


def find_trace(prompt: list[int], reply: list[int]) -> Trace | None:
    """The trace that the prompt's last turn opens, else the one that the reply opens."""
    turn = max((i + 1 for i, token in enumerate(prompt) if token == SPECIAL), default=0)
    for ids, first in ((prompt, turn), (prompt + reply, len(prompt))):
        for place in range(first, len(ids)):
            text = "".join(ALL_TEXTS[i] for i in ids[first : place + 1])
            if OPEN in text:
                carried = text[text.index(OPEN) + len(OPEN) :]
                in_prompt = ids is prompt
                newline = in_prompt and not carried and ids[place + 1 : place + 2] == [9]
                return Trace(place + 1 + newline, carried)
    return None


def due(rule: BudgetRule, n: int, last: int | None) -> bool:
    newline = last is not None and "\n" in ALL_TEXTS[last]
    return n >= rule.budget + rule.grace or (n >= rule.budget and (newline or rule.budget == 0))


def begun(carried: str, before: list[int]) -> tuple[int, ...] | None:
    """What is left of a tag that the trace ends in; None where it ends in no part of one."""
    for size in (2, 1):
        if tuple(before[-size:]) == CLOSE_IDS[:size]:
            return CLOSE_IDS[size:]
    text = carried + "".join(ALL_TEXTS[i] for i in before)
    sizes = [n for n in range(1, len(CLOSE)) if text.endswith(CLOSE[:n])]
    return REST[max(sizes)] if sizes else None


def reference(rule: BudgetRule, prompt: list[int], reply: list[int]) -> int | None:
    """What must follow: the whole text is read anew, prefix by prefix, without any state."""
    ids = prompt + reply
    trace = find_trace(prompt, reply)
    if trace is None:
        return None
    thought = ids[trace.start :]
    queue: list[int] = []
    for n in range(len(thought) + 1):
        before = thought[:n]
        if queue and before and before[-1] == queue[0]:
            queue = queue[1:]
            if not queue:
                return None  # the rule closed it
        elif CLOSE in trace.carried + "".join(ALL_TEXTS[i] for i in before):
            return None
        elif due(rule, n, before[-1] if before else None) and (n or rule.budget == 0):
            rest = begun(trace.carried, before)
            lead = rule.lead_ids if rest is None else ()
            queue = [*lead, *(rest or CLOSE_IDS), *rule.tail_ids]
        else:
            queue = []
    return queue[0] if queue else None


def test_ten_thousand_random_texts_agree_with_the_reference() -> None:
    rng = random.Random(1)
    seen: dict[str, int] = {}
    for number in range(10_000):
        rule = BudgetRule(
            rng.randint(0, 8),
            rng.randint(0, 5),
            CLOSE_IDS,
            VOCABULARY.newline_ids,
            lead_ids=rng.choice([(), (13,)]),
            tail_ids=rng.choice([(), (10,)]),
            vocabulary=VOCABULARY,
        )
        prompt = [rng.randrange(len(TEXTS)) for _ in range(rng.randint(1, 8))]
        if number % 2:
            part = [rng.randrange(1, len(TEXTS)) for _ in range(rng.randrange(4))]
            prompt += [rng.choice((1, 24)), *part]
        state = rule.state(prompt)
        reply: list[int] = []
        mask: list[bool] = []
        # In every third stream nothing but pieces of tags: they are begun, broken off and finished.
        choice = TAGGED if number % 3 == 0 else range(1, len(TEXTS))
        while len(reply) < 12:
            must = reference(rule, prompt, reply)
            assert state.forced == must, (rule, prompt, reply)
            mask.append(must is not None)
            reply.append(rng.choice(choice) if must is None else must)
            state.push(reply[-1])
        assert forced_mask(prompt, reply, rule) == mask
        kind = "forced" if any(mask) else state.phase
        seen[kind] = seen.get(kind, 0) + 1
    # Every kind of stream was tried: forced, closed by the model, in a trace, and never opened.
    assert min(seen.get(kind, 0) for kind in ("forced", "closed", "waiting")) > 300, seen
