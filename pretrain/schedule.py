"""The WSD learning-rate schedule: warm-up, stable, decay, in tokens (facts: paper section 2)."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class WSD:
    """Warm-up, stable, decay. All lengths are in tokens.

    The paper: stable 4.5e-4, minimum 4.5e-6, decay over the last 18% (3.6T of 20T tokens), warm-up
    over 8B tokens. It does not print the decay's shape; `linear`, `minus_sqrt` and
    `cosine` are offered.
    """

    peak_lr: float
    min_lr: float
    warmup_tokens: int
    decay_tokens: int
    total_tokens: int
    shape: Literal["linear", "minus_sqrt", "cosine"] = "minus_sqrt"

    def __post_init__(self) -> None:
        if self.warmup_tokens + self.decay_tokens > self.total_tokens:
            raise ValueError(
                f"warm-up ({self.warmup_tokens:,}) and decay ({self.decay_tokens:,} tokens) are "
                f"longer than the whole training ({self.total_tokens:,} tokens)"
            )

    def lr(self, tokens: int) -> float:
        """Learning rate for the step that starts after `tokens` tokens were trained on."""
        if tokens < self.warmup_tokens:
            return self.peak_lr * (tokens + 1) / (self.warmup_tokens + 1)
        into_decay = tokens - (self.total_tokens - self.decay_tokens)
        if into_decay <= 0 or self.decay_tokens == 0:
            return self.peak_lr
        share = min(into_decay / self.decay_tokens, 1.0)
        shapes = {
            "linear": 1.0 - share,
            "minus_sqrt": 1.0 - share**0.5,
            "cosine": (1.0 + math.cos(math.pi * share)) / 2,
        }
        left = shapes[self.shape]
        return self.min_lr + (self.peak_lr - self.min_lr) * left
