"""LoRA that covers a hybrid whole: every layer kind, not only attention.

PEFT's defaults adapt the attention layers of a NemotronH alone (2 of 14 in a small one), and
`all-linear` raises on `out_proj`, which the fused Mamba kernel reads as a raw weight.
"""

from torch import nn

# Projections by layer kind. Mamba's out_proj is left to the base: its weight is handed to the
# fused kernel directly, so an adapter around it would be ignored on a GPU.
HYBRID_TARGETS: dict[str, tuple[str, ...]] = {
    "linear_attention": ("in_proj",),
    "mlp": ("up_proj", "down_proj"),
    "full_attention": ("q_proj", "k_proj", "v_proj", "o_proj"),
}
TRANSFORMER_TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def target_modules(model: nn.Module) -> list[str]:
    """Full names of the linear layers to adapt. Raises: ValueError where a layer has none."""
    config = model.config  # type: ignore[union-attr]
    hybrid = config.model_type == "nemotron_h"
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    wanted = (
        {t for group in HYBRID_TARGETS.values() for t in group}
        if hybrid
        else set(TRANSFORMER_TARGETS)
    )
    chosen = [name for name in names if name.rsplit(".", 1)[-1] in wanted]
    covered = {_layer(name) for name in chosen}
    missing = set(range(config.num_hidden_layers)) - covered
    if missing:
        raise ValueError(f"LoRA reaches no projection of layers {sorted(missing)}")
    return chosen


def _layer(name: str) -> int:
    parts = name.split(".")
    return int(parts[parts.index("layers") + 1])
