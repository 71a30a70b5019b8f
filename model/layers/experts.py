"""Layers of experts over packed rows.

Tokens of one expert are multiplied together, and how a product rounds depends on how many rows it has. So
another document's routing would reach this one's last bits. Each document passes such a layer by itself.
"""

import threading
from typing import Any

import torch

from model.layers.layout import DocumentLayout
from model.layers.swap import in_front

# transformers' layers of experts that take [B, T, hidden] and return the same.
_LAYERS = (
    "NemotronHMoE",
    "GraniteMoeHybridMoE",
    "GraniteMoeMoE",
    "GraniteMoeSharedMoE",
    "MixtralSparseMoeBlock",
    "OlmoeSparseMoeBlock",
    "Qwen2MoeSparseMoeBlock",
    "Qwen3MoeSparseMoeBlock",
    "DeepseekV2Moe",
    "DeepseekV3MoE",
    "Glm4MoeMoE",
    "Dots1MoE",
    "Ernie4_5_MoeSparseMoeBlock",
    "HunYuanMoEV1Moe",
)


# Of the row that a thread is at: rows of a step may pass the same layers side by side.
_here = threading.local()


class ByDocument(torch.nn.Module):
    """A layer of experts that takes its documents one by one; in front of the family's own class."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[B, T, hidden] -> [B, T, hidden]."""
        layout: DocumentLayout | None = getattr(_here, "documents", None)
        forward = super().forward
        if layout is None or len(layout.sizes) == 1:
            return forward(hidden_states)
        flat = hidden_states.reshape(1, -1, hidden_states.shape[-1])
        parts = [forward(part) for part in flat.split(layout.sizes, dim=1)]
        return torch.cat(parts, dim=1).view(hidden_states.shape)


def install(model: torch.nn.Module) -> None:
    """Put `ByDocument` into the layers of experts of `model`, and have their blocks tell them the documents."""
    for block in list(model.modules()):
        for child in block.children():
            if type(child).__name__ in _LAYERS:
                child.__class__ = in_front(ByDocument, type(child))
                block.register_forward_pre_hook(_tell, with_kwargs=True)


def others(model: torch.nn.Module) -> str | None:
    """Class of a layer of experts that does not take its documents one by one; None where there is none."""
    return next(
        (
            type(module).__name__
            for module in model.modules()
            if hasattr(module, "experts") and not isinstance(module, ByDocument)
        ),
        None,
    )


def _tell(block: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
    """Pre-hook of a block. Activation checkpointing runs it again, so a recomputed layer has its own rows'."""
    _here.documents = kwargs.get("document_layout")
