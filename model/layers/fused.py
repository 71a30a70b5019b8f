"""Where the fused Triton kernels stand in for torch's operations: on a card, once they have proved themselves.

The first call of each kind, type and size on a device compares a tiny case, forward and backward, with the
torch path in fp64 and looks for leaks between documents. What fails falls back with one line, or is refused
where the stage says `kernels: required` or `triton`.
"""

import importlib
import logging
from functools import cache
from typing import Any

import torch

from model.layers.layout import DocumentLayout
from workbench import kernels
from workbench.errors import UserError

_log = logging.getLogger(__name__)
_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def serves(kind: str, x: torch.Tensor, *sizes: int) -> bool:
    """Whether the kernel of this kind ("scan", "conv", "norm") takes x, and is to take it.

    sizes: what the kernel is compiled for: head_dim and state of a scan, taps of a convolution, the width
    of a norm's part. Raises: UserError where it may not fall back.
    """
    if x.dtype not in _TYPES or not _wanted(x.device):
        return False
    reason = _why_not(kind, x.device, x.dtype, sizes)
    if reason and kernels.strict():
        raise UserError(
            f"kernels is {kernels.chosen()!r}, but the {kind} kernel {reason}; set kernels: auto"
        )
    return not reason


def _wanted(device: torch.device) -> bool:
    choice = kernels.chosen()
    if choice in ("torch", "mamba-ssm"):
        return False
    # In the interpreter only where it is asked for: it is a thousand times slower than torch.
    return device.type == "cuda" or (
        device.type == "cpu" and choice != "auto" and kernels.interpreted()
    )


@cache
def _why_not(kind: str, device: torch.device, dtype: torch.dtype, sizes: tuple[int, ...]) -> str:
    """Empty where the kernel works here; else why not, which is said once."""
    try:
        reason = str(part("parity").problem(kind, device, dtype, sizes))
    except ImportError as error:
        reason = f"needs triton ({error})"
    except Exception as error:  # noqa: BLE001 - a compiler has many ways to fail, and torch serves
        reason = f"does not run here ({type(error).__name__}: {' '.join(str(error).split())[:200]})"
    if reason and not kernels.strict():
        _log.warning("%s: torch's operations are used, because the kernel %s", kind, reason)
    return reason


@cache
def part(name: str) -> Any:
    """A module of model.layers.triton; imported late, because Triton need not be installed."""
    return importlib.import_module(f"model.layers.triton.{name}")


def position(x: torch.Tensor, layout: DocumentLayout | None) -> torch.Tensor:
    """[B, T] int32: the place of each token of x [B, T, ...] in its document."""
    if layout is not None:
        return layout.places
    return torch.arange(x.shape[1], dtype=torch.int32, device=x.device).expand(x.shape[0], -1)
