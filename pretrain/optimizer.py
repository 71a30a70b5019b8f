"""AdamW as the recipe sets it: 0.9/0.95, decay 0.1 on matrices only."""

from collections.abc import Iterable

import torch

# Scales, biases and the SSM's per-head parameters are not matrices: decaying A_log or dt_bias
# would pull the state's time scales together (mamba-ssm marks them the same way).
_NO_DECAY = ("norm", "bias", "A_log", "dt_bias", ".D", "embeddings")


def adamw(
    named: Iterable[tuple[str, torch.nn.Parameter]],
    *,
    lr: float,
    betas: tuple[float, float] = (0.9, 0.95),
    weight_decay: float = 0.1,
) -> torch.optim.AdamW:
    """AdamW with two groups: decayed matrices, and the rest."""
    decayed: list[torch.nn.Parameter] = []
    kept: list[torch.nn.Parameter] = []
    for name, parameter in named:
        if parameter.requires_grad:
            plain = parameter.ndim < 2 or any(part in name for part in _NO_DECAY)
            (kept if plain else decayed).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": kept, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=1e-8, fused=True)
