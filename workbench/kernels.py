"""Which kernels the models of this process use: what the stage at work says. Read by model/layers."""

import os
from typing import Literal

from workbench.errors import UserError

Choice = Literal["auto", "required", "torch", "triton", "mamba-ssm"]
# Those that refuse what they cannot serve, where `auto` falls back to torch's operations.
_STRICT = ("required", "triton", "mamba-ssm")

_chosen: Choice = "auto"


def choose(choice: Choice, device: str) -> None:
    """From now on, for models on `device` ("cuda", "cpu").

    Raises: UserError where the choice needs a card and there is none.
    """
    global _chosen
    if device == "cpu" and choice in _STRICT and not (interpreted() and choice != "mamba-ssm"):
        raise UserError(
            f"kernels is {choice!r}, which needs a card, and the stage computes on the CPU; set "
            "kernels: auto, or give the stage a card (gpus)"
        )
    _chosen = choice


def chosen() -> Choice:
    """The choice of the stage at work."""
    return _chosen


def strict() -> bool:
    """Whether what cannot be served is to be refused."""
    return _chosen in _STRICT


def interpreted() -> bool:
    """Whether Triton's kernels run on the CPU, in Triton's own interpreter: for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"
