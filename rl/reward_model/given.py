"""Given pairs as a reward model's rows: the answers alone, as it will score them."""

from collections.abc import Sequence
from typing import Any

from data_mix.preferences import Preference
from reward.score_model import conversation_ids
from rl.held_out import check_held_out
from rl.preference.rows import as_conversations, asked_of, take_given
from rl.reward_model.config import RewardModelConfig
from workbench.conversation import Conversation
from workbench.errors import UserError


def given_data(config: RewardModelConfig, tokenizer: Any, seed: int) -> dict[str, Any]:
    """The pairs of both sets with their accounts, as sampling makes them. Raises: UserError."""
    data, taken = dict[str, Any](), list[list[Conversation]]()
    for name, source, count in (
        ("prompts", config.prompts, config.num_prompts),
        ("held_out", config.held_out, config.num_held_out),
    ):
        pairs, account = take_given(source, count, skip_bad=config.skip_bad, name=name, seed=seed)
        taken.append(as_conversations(pairs))
        rows, counted = given_rows(
            [pair for pair in pairs if isinstance(pair, Preference)],
            tokenizer,
            row_tokens=config.row_tokens,
            margin_weight=config.margin_weight,
        )
        if not rows:
            raise UserError(f"{name}: of {len(pairs):,} pairs none is left ({counted})")
        key = "train" if name == "prompts" else name
        data[key] = {"rows": rows, "account": {**counted, "prompts": account}}
    check_held_out(*taken)
    return data


def given_rows(
    pairs: Sequence[Preference], tokenizer: Any, *, row_tokens: int, margin_weight: float
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows {prompt, chosen_ids, rejected_ids, margin?}, and what became of the pairs.

    Pairs that differ in their traces alone are equal to a reward model, which sees no trace.
    """
    margins = margin_weight > 0 and any(pair.margin is not None for pair in pairs)
    rows, longer, equal = list[dict[str, Any]](), 0, 0
    for pair in pairs:
        better, worse = (conversation_ids(side, tokenizer) for side in pair.conversations)
        if max(len(better), len(worse)) > row_tokens:
            longer += 1
            continue
        if better == worse:
            equal += 1
            continue
        row = {"prompt": asked_of(pair.chosen), "chosen_ids": better, "rejected_ids": worse}
        rows.append(row | ({"margin": margin_weight * (pair.margin or 0.0)} if margins else {}))
    return rows, {
        "longer": longer,
        "equal_answers": equal,
        "prompts_with_pairs": len({row["prompt"] for row in rows}),
        "pairs": len(rows),
    }
