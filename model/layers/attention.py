"""Causal attention inside documents, registered with transformers as ``document_sdpa``.

Documents of one padded length are one batched call of torch's causal attention: no mask of
T x T is ever made, and a document's numbers cannot depend on another's. Without documents this
is transformers' own SDPA path, with its padding masks and caches.
"""

from typing import Any

import torch
import torch.nn.functional as F
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from model.layers import context, kernels
from model.layers.layout import DocumentLayout, Gather

NAME = "document_sdpa"


def register() -> None:
    """Make ``document_sdpa`` known to transformers; harmless to repeat."""
    ALL_ATTENTION_FUNCTIONS.register(NAME, document_sdpa)
    ALL_MASK_ATTENTION_FUNCTIONS.register(NAME, sdpa_mask)


def document_sdpa(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    document_layout: DocumentLayout | None = None,
    seq_idx: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """transformers' attention interface: query [B, H, T, D], key [B, KV, T, D], value [B, KV, T, E], where E is D
    but for latent attention (DeepSeek).

    Returns ([B, T, H, E], None). With `document_layout` (or bare seq_idx [B, T]) the attention
    mask is not read: the layout already holds it.
    """
    if document_layout is None and seq_idx is not None:
        document_layout = DocumentLayout(seq_idx)
    if document_layout is None:
        if attention_mask is not None and attention_mask.shape[-1] != key.shape[2]:
            # The stand-in of model.layers.install, without the layout that goes with it.
            raise ValueError(f"{type(module).__name__} is not given the documents by its layer")
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
    if key.shape[2] != query.shape[2]:
        raise ValueError("seq_idx cannot be combined with a key-value cache: nothing isolates it")
    group = context.group_of(module)
    if group is None:
        return _attend(query, key, value, document_layout, dropout, scaling), None
    query, key, value = context.heads_of_whole_rows(query, key, value, group)
    out = _attend(query, key, value, document_layout, dropout, scaling)
    return context.slices_of_all_heads(out, group), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    document_layout: DocumentLayout,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """[B, H, T, D] -> [B, T, H, E] over whole rows."""
    if query.shape[-1] == value.shape[-1] and kernels.varlen_attention_serves(query, key, dropout):
        return kernels.varlen_attention(query, key, value, document_layout, scaling)
    return by_documents(query, key, value, document_layout, dropout, scaling)


def by_documents(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: DocumentLayout,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """[B, H, T, D] -> [B, T, H, E], one batched causal call a padded length.

    Padding follows the tokens of its document, so causality hides it from them.
    """
    batch, heads, length, _ = query.shape
    widths = [v.shape[-1] for v in (query, key, value)]
    repeats = heads // key.shape[1]
    buckets = layout.buckets
    picked = [
        Gather.apply(v.transpose(1, 2).reshape(batch * length, -1), buckets.there, buckets.back)
        for v in (query, key, value)
    ]
    slots = [count * size for count, size in buckets.groups]
    parts = zip(buckets.groups, *(p.split(slots) for p in picked), strict=True)
    outputs = []
    for (count, size), *qkv in parts:
        q, k, v = (
            t.view(count, size, -1, width).transpose(1, 2)
            for t, width in zip(qkv, widths, strict=True)
        )
        if repeats > 1:
            k, v = (t.repeat_interleave(repeats, dim=1) for t in (k, v))
        out = F.scaled_dot_product_attention(
            q, k, v, dropout_p=dropout, is_causal=True, scale=scaling
        )
        outputs.append(out.transpose(1, 2).reshape(count * size, -1))
    flat = Gather.apply(torch.cat(outputs), buckets.back, buckets.there)
    return flat.view(batch, length, heads, widths[2])
