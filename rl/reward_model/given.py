"""Given pairs as a reward model's rows: the answers alone, as it will score them."""

from collections.abc import Sequence
from typing import Any

from data_mix.preferences import Preference
from reward.score_model import conversation_ids
from rl.held_out import check_held_out, shared_with
from rl.preference.rows import as_conversations, asked_of, take_given
from rl.preference.validation import must_be_two
from rl.reward_model.config import RewardModelConfig
from workbench.conversation import Conversation
from workbench.errors import UserError


def given_data(config: RewardModelConfig, tokenizer: Any, seed: int) -> dict[str, Any]:
    """The pairs of both sets with their accounts, as sampling makes them. Raises: UserError."""
    taken, accounts = dict[str, list[Preference]](), dict[str, dict[str, Any]]()
    more = config.validation.num_rows if config.validation else 0
    for name, source, count in (
        ("train", config.prompts, config.num_prompts),
        ("held_out", config.held_out, config.num_held_out + more),
    ):
        place = "prompts" if name == "train" else name
        pairs, account = take_given(source, count, skip_bad=config.skip_bad, name=place, seed=seed)
        taken[name] = [pair for pair in pairs if isinstance(pair, Preference)]
        accounts[name] = account
    check_held_out(as_conversations(taken["train"]), as_conversations(taken["held_out"]))
    if more:
        whole = taken["held_out"]
        taken["held_out"] = whole[: config.num_held_out]
        left = {c.id for c in further_of(as_conversations(whole), config.num_held_out, more)}
        taken["validation"] = [pair for pair in whole[config.num_held_out :] if pair.id in left]
    return {
        name: _data(name, pairs, accounts.get(name, {}), config, tokenizer)
        for name, pairs in taken.items()
    }


def _data(
    name: str,
    pairs: Sequence[Preference],
    account: dict[str, Any],
    config: RewardModelConfig,
    tokenizer: Any,
) -> dict[str, Any]:
    rows, counted = given_rows(
        pairs, tokenizer, row_tokens=config.row_tokens, margin_weight=config.margin_weight
    )
    if not rows:
        place = "prompts" if name == "train" else name
        raise UserError(f"{place}: of {len(pairs):,} pairs none is left ({counted})")
    return {"rows": rows, "account": {**counted, "prompts": account}}


def further_of(taken: list[Conversation], count: int, more: int) -> list[Conversation]:
    """Those behind the first `count` that ask nothing that these ask. Raises: UserError below two."""
    both = shared_with(taken[:count], taken[count:])
    left = [one for one in taken[count:] if one.id not in both]
    must_be_two(left, more, "prompts")
    return left


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
