"""The optimizer of a policy and its learning rate."""

import math
from typing import Literal

import torch
from torch import nn

from rl.config import GrpoConfig
from workbench.errors import UserError

Schedule = Literal["constant_with_warmup", "cosine", "linear"]


def make_optimizer(model: nn.Module, config: GrpoConfig) -> torch.optim.Optimizer:
    """AdamW over what is trained, in one kernel on a GPU. Raises: UserError without its package."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if config.optimizer == "adamw":
        fused = {"fused": True} if all(p.is_cuda for p in trained) else {}
        return torch.optim.AdamW(trained, lr=config.lr, weight_decay=0.0, **fused)
    try:
        import bitsandbytes  # noqa: PLC0415 - only where it is asked for
    except ImportError:
        raise UserError(
            "optimizer adamw_8bit needs the package bitsandbytes, which is not installed; "
            "python -m pip install --no-deps -r requirements/4bit.txt, or take optimizer: adamw"
        ) from None
    made: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(
        trained, lr=config.lr, weight_decay=0.0
    )
    return made


def rate_share(step: int, num_steps: int, warmup_share: float, schedule: Schedule) -> float:
    """Share of the peak learning rate at step 0, 1, ..., num_steps - 1.

    The warm-up takes ceil(warmup_share * num_steps) steps, linearly, from 1 / that many on.

    >>> [rate_share(step, 4, 0.5, "linear") for step in range(4)]
    [0.5, 1.0, 1.0, 0.5]
    """
    warmup = math.ceil(warmup_share * num_steps)
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(num_steps - warmup, 1)
    if schedule == "linear":
        return 1.0 - done
    return 0.5 * (1.0 + math.cos(math.pi * done)) if schedule == "cosine" else 1.0
