"""Where kernels stand in for torch's plain operations: on a card, once they have proved themselves.

Scan, convolution and norms have Triton kernels of our own; attention has torch's own over documents.

The first call of each kind, type and size on a device compares a tiny case, forward and backward, with the
torch path in fp64 and looks for leaks between documents. What fails falls back with one line, or is refused
where the stage says `kernels: required` or `triton`.
"""

import importlib
import logging
from functools import cache
from typing import Any

import torch

from model.layers import parity
from model.layers.layout import DocumentLayout
from workbench import kernels
from workbench.errors import UserError

_log = logging.getLogger(__name__)
_TYPES = (torch.float32, torch.bfloat16, torch.float16)
# Where the tiny case of each kind is; imported late, because Triton need not be installed.
_CASES = {"attention": "model.layers.attention_cases"} | dict.fromkeys(
    ("scan", "conv", "norm"), "model.layers.triton.cases"
)


def serves(kind: str, x: torch.Tensor, *sizes: int) -> bool:
    """Whether the kernel of this kind ("scan", "conv", "norm", "attention") takes x, and is to take it.

    sizes: what the kernel is compiled for: head_dim and state of a scan, taps of a convolution, the width
    of a norm's part, the width of a head of attention and how many share a key. Raises: UserError where it
    may not fall back.
    """
    if x.dtype not in _TYPES or not _wanted(kind, x.device):
        return False
    reason = _why_not(kind, x.device, x.dtype, sizes)
    if reason and kernels.strict():
        raise UserError(
            f"kernels is {kernels.chosen()!r}, but the {kind} kernel {reason}; set kernels: auto"
        )
    return not reason


def _wanted(kind: str, device: torch.device) -> bool:
    choice, is_torchs = kernels.chosen(), kind == "attention"
    if choice == "torch" or (choice == "mamba-ssm" and not is_torchs):
        return False
    # In the interpreter only where it is asked for: it is a thousand times slower than torch.
    interpreted = choice != "auto" and kernels.interpreted() and not is_torchs
    return device.type == "cuda" or (device.type == "cpu" and interpreted)


@cache
def _why_not(kind: str, device: torch.device, dtype: torch.dtype, sizes: tuple[int, ...]) -> str:
    """Empty where the kernel works here; else why not, which is said once."""
    reason = problem(kind, device, dtype, sizes)
    if reason and not kernels.strict():
        _log.warning("%s: torch's operations are used, because the kernel %s", kind, reason)
    return reason


def problem(kind: str, device: torch.device, dtype: torch.dtype, sizes: tuple[int, ...]) -> str:
    """Try the kernel of this kind and these sizes on its tiny case: why it may not serve on this device, empty
    where it may. Never raises."""
    try:
        cases = importlib.import_module(_CASES[kind])
        reason = cases.refusal(kind, sizes) or parity.problem(
            cases.case(kind, sizes), device, dtype
        )
        return str(reason)
    except ImportError as error:
        return f"needs triton ({error})"
    except Exception as error:  # noqa: BLE001 - a compiler has many ways to fail, and torch serves
        return f"does not run here ({type(error).__name__}: {' '.join(str(error).split())[:200]})"


@cache
def part(name: str) -> Any:
    """A module of model.layers.triton; imported late, because Triton need not be installed."""
    return importlib.import_module(f"model.layers.triton.{name}")


def position(x: torch.Tensor, layout: DocumentLayout | None) -> torch.Tensor:
    """[B, T] int32: the place of each token of x [B, T, ...] in its document."""
    if layout is not None:
        return layout.places
    return torch.arange(x.shape[1], dtype=torch.int32, device=x.device).expand(x.shape[0], -1)
