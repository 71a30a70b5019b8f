"""How a training on preferences does on rows that it is not trained on, by their margins."""

import math
from collections.abc import Sequence

from workbench.errors import UserError
from workbench.records import Estimate
from workbench.statistics import mean_interval, mean_interval_normal


def margin_estimates(margins: Sequence[float], prompts: Sequence[str]) -> dict[str, Estimate]:
    """Of pairs, by how far the better side is ahead in nats: `loss`, the mean of -log sigmoid(margin)
    (arXiv 2305.18290, eq. 7), and `accuracy`, the share above 0, where 0 counts half. Clustered by prompt."""
    losses = [math.log1p(math.exp(-abs(m))) + max(-m, 0.0) for m in margins]
    right = [1.0 if m > 0 else 0.5 if m == 0 else 0.0 for m in margins]
    return {
        "loss": mean_interval_normal(losses, prompts),
        "accuracy": mean_interval(right, prompts),
    }


def must_be_two(rows: Sequence[object], asked: int, what: str = "rows") -> None:
    """Raises: UserError where too few rows are left to validate by."""
    if len(rows) < 2:
        raise UserError(
            f"validation: {len(rows)} {what} of {asked} further held-out ones can be used; raise "
            "validation.num_rows, or give held_out more"
        )
