"""How long an update takes: replies packed into rows, rows dealt to trainers, as rl.update does. No torch."""

from collections.abc import Sequence

from rl.simulation.parts import Asked, TrainerGroup


def packed(asked: Sequence[Asked], row_tokens: int) -> list[int]:
    """Tokens of each row: replies with their prompts in order, at most `row_tokens` (a longer one has its own)."""
    rows: list[int] = []
    for one in asked:
        length = one.prompt + one.reply
        if rows and rows[-1] + length <= row_tokens:
            rows[-1] += length
        else:
            rows.append(length)
    return rows


def update_s(asked: Sequence[Asked], training: TrainerGroup, groups: int, row_tokens: int) -> float:
    """Rows go to the groups longest first, a round at a time; the longest of a round is what it takes."""
    rows = sorted(packed(asked, row_tokens), reverse=True)
    longest = rows[::groups]
    return training.fixed_s + sum(
        max(tokens * training.token_s, training.gather_s) for tokens in longest
    )
