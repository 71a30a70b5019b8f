"""Hand-over to kernels made for a GPU: torch's own attention over documents, and mamba-ssm's scan.

None is needed: without them the torch path runs, sized for the device. None was run by us on a GPU;
the calls follow the packages' signatures (torch 2.13, mamba-ssm 2.2+, causal-conv1d 1.4+), and
`check_isolation` proves or refuses the path on the user's own device before anything is packed.
"""

import importlib
from functools import cache
from typing import Any

import torch
from torch.nn.attention.varlen import varlen_attn

from model.layers import fused
from model.layers.layout import DocumentLayout
from workbench import kernels as stage
from workbench.errors import UserError

# mamba-ssm and causal-conv1d count offsets in 32 bits (state-spaces/mamba issue 1015): beyond this
# many values between the first token and the last they read elsewhere, and say nothing.
_MOST_OFFSET = 2**31 - 1


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


def mamba_kernels_serve(x: torch.Tensor, layout: DocumentLayout | None) -> bool:
    """Whether mamba-ssm's kernels may take x [B, T, C], a view of a wider tensor.

    They do where the fused kernels do not. They may not where a row holds several documents: their decay sums run on from one document to
    the next, so that a rounding of one reaches the others (472 of 1,120 values in a trial), and
    isolation to the bit is lost. They may not beyond 32-bit offsets either.
    """
    if stage.chosen() == "torch" or fused.serves("conv", x, 4):
        return False
    packed = layout is not None and len(layout.starts) > layout.batch
    offset = x.shape[0] * x.shape[1] * x.stride(-2)
    if packed or not x.is_cuda or offset > _MOST_OFFSET:
        return False
    found = _scan_kernel() is not None and _conv_kernel() is not None
    if stage.chosen() == "mamba-ssm" and not found:
        raise UserError(
            "kernels is 'mamba-ssm', but mamba-ssm and causal-conv1d do not import here; install them "
            "(requirements/cuda-kernels.txt), or set kernels: auto"
        )
    return found


def varlen_attention_serves(query: torch.Tensor, dropout: float) -> bool:
    """Whether torch's attention over documents takes query: on CUDA, in half precision."""
    half = query.dtype in (torch.float16, torch.bfloat16)
    return query.is_cuda and half and dropout == 0.0


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
    scaling: float | None,
) -> torch.Tensor:
    """query [B, H, T, D], key and value [B, KV, T, D] -> [B, T, H, D], documents isolated."""
    batch, heads, length, width = query.shape
    q, k, v = (t.transpose(1, 2).flatten(0, 1) for t in (query, key, value))
    out = varlen_attn(
        q,
        k,
        v,
        layout.cu_seqlens,
        layout.cu_seqlens,
        layout.longest,
        layout.longest,
        scale=scaling,
        window_size=(-1, 0),  # causal
        enable_gqa=heads != key.shape[1],
    )
    assert isinstance(out, torch.Tensor)  # return_aux is not asked for
    return out.view(batch, length, heads, width)
