"""Hand-over to kernels made for a GPU: torch's own attention over documents, and mamba-ssm's scan.

None is needed: without them the torch path runs, sized for the device. None was run by us on a GPU;
the calls follow the packages' signatures (torch 2.10 to 2.13, mamba-ssm 2.2+, causal-conv1d 1.4+).
Attention proves itself as the fused kernels do (model.layers.fused), and `check_isolation` proves or
refuses the whole path, in the precision of the stage, before anything is packed.
"""

import importlib
import inspect
from functools import cache
from typing import Any

import torch

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


# None: a torch from before 2.10.
varlen_attn = _optional("torch.nn.attention.varlen", "varlen_attn")


def _scan_kernel() -> Any:
    return _optional("mamba_ssm.ops.triton.ssd_combined", "mamba_chunk_scan_combined")


def _conv_kernel() -> Any:
    return _optional("causal_conv1d", "causal_conv1d_fn")


def mamba_ssm_imports() -> bool:
    """Whether the kernels of mamba-ssm and causal-conv1d are here."""
    return _scan_kernel() is not None and _conv_kernel() is not None


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
    found = mamba_ssm_imports()
    if stage.chosen() == "mamba-ssm" and not found:
        raise UserError(
            "kernels is 'mamba-ssm', but mamba-ssm and causal-conv1d do not import here; install them "
            "(requirements/cuda-kernels.txt), or set kernels: auto"
        )
    return found


def varlen_attention_serves(query: torch.Tensor, key: torch.Tensor, dropout: float) -> bool:
    """Whether torch's attention over documents takes query [B, H, T, D] and key [B, KV, T, D]: on CUDA, in
    half precision, once it has shown here that it equals plain attention and leaks nothing.

    Raises: UserError where it has not, and the stage says `kernels: required`.
    """
    half = query.dtype in (torch.float16, torch.bfloat16)
    sizes = (query.shape[-1], query.shape[1] // key.shape[1])
    return half and dropout == 0.0 and fused.serves("attention", query, *sizes)


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
    known = _parameters(varlen_attn)
    # torch 2.10 says it by a flag, and has neither a scale nor shared keys.
    causal = "window_size" in known
    options: dict[str, Any] = {"window_size": (-1, 0)} if causal else {"is_causal": True}
    if "scale" in known:
        options["scale"] = scaling
    elif scaling is not None:
        q = q * (scaling * width**0.5)
    shared = heads // key.shape[1]
    if "enable_gqa" in known:
        options["enable_gqa"] = shared > 1
    elif shared > 1:
        k, v = (t.repeat_interleave(shared, dim=1) for t in (k, v))
    ends = layout.cu_seqlens
    out: torch.Tensor = varlen_attn(q, k, v, ends, ends, layout.longest, layout.longest, **options)
    return out.view(batch, length, heads, width)


@cache
def _parameters(function: Any) -> frozenset[str]:
    return frozenset(inspect.signature(function).parameters)
