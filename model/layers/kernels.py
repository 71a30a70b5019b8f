"""Hand-over to the CUDA kernels of mamba-ssm, causal-conv1d and flash-attn, where they import.

Not run on the machines this was written on, which have no GPU: the calls follow the packages'
signatures (mamba-ssm 2.2+, causal-conv1d 1.4+, flash-attn 2.x), and `check_isolation` proves or
refuses the path on the user's own device before anything is packed. Where a kernel is missing
the torch path runs on CUDA as well.
"""

import importlib
from functools import cache
from typing import Any

import torch

from model.layers.layout import DocumentLayout


@cache
def _optional(module: str, name: str) -> Any:
    """A function of an optional package, or None where the package does not import."""
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, OSError, AttributeError):
        # OSError: the extension is there but its CUDA libraries are not.
        return None


def _scan_kernel() -> Any:
    return _optional("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")


def _conv_kernel() -> Any:
    return _optional("causal_conv1d", "causal_conv1d_fn")


def _attention_kernel() -> Any:
    return _optional("flash_attn", "flash_attn_varlen_func")


def mamba_kernels_available(x: torch.Tensor) -> bool:
    """Whether both Mamba-2 kernels import and x is on CUDA in a type they take."""
    return x.is_cuda and _scan_kernel() is not None and _conv_kernel() is not None


def varlen_attention_available(query: torch.Tensor) -> bool:
    """Whether flash-attn imports and query is on CUDA in half precision."""
    half = query.dtype in (torch.float16, torch.bfloat16)
    return query.is_cuda and half and _attention_kernel() is not None


def conv_silu(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, seq_idx: torch.Tensor | None
) -> torch.Tensor:
    """x [B, T, C] -> [B, T, C]. seq_idx [B, T] int32, which the kernel wants channel-last for."""
    out = _conv_kernel()(
        x.transpose(1, 2),
        weight.to(x.dtype),
        None if bias is None else bias.to(x.dtype),
        seq_idx=seq_idx,
        activation="silu",
    )
    return out.transpose(1, 2)


def chunk_scan(
    x: torch.Tensor,
    dt: torch.Tensor,
    a: torch.Tensor,
    b: torch.Tensor,
    c: torch.Tensor,
    *,
    d: torch.Tensor,
    chunk: int,
    seq_idx: torch.Tensor | None,
) -> torch.Tensor:
    """x [B, T, H, P], dt [B, T, H] after softplus, b and c [B, T, G, N] -> [B, T, H, P]."""
    return _scan_kernel()(x, dt, a, b, c, chunk_size=chunk, D=d, seq_idx=seq_idx)


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: DocumentLayout,
    dropout: float,
    scaling: float | None,
) -> torch.Tensor:
    """query [B, H, T, D], key and value [B, KV, T, D] -> [B, T, H, D], documents isolated."""
    batch, heads, length, width = query.shape
    q, k, v = (t.transpose(1, 2).flatten(0, 1) for t in (query, key, value))
    out = _attention_kernel()(
        q,
        k,
        v,
        cu_seqlens_q=layout.cu_seqlens,
        cu_seqlens_k=layout.cu_seqlens,
        max_seqlen_q=layout.longest,
        max_seqlen_k=layout.longest,
        dropout_p=dropout,
        softmax_scale=scaling,
        causal=True,
    )
    return out.view(batch, length, heads, width)
