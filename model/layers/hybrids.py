"""Mamba-2 layers of the other hybrids in transformers: Bamba, Granite 4, Falcon-H1 and Zamba2.

They differ from NemotronH's in multipliers, in the groups of the norm and in its order with the gate.
Each layer keeps its own class behind ours, so a cache still meets transformers' own code.
"""

from typing import Any

import torch
import torch.nn.functional as F

from model.layers.gated_norm import gated_norm
from model.layers.mixer import DocumentMamba2, DocumentMamba2Mixer, Parts
from model.layers.swap import in_front


class _OneNorm(DocumentMamba2):
    """Bamba and Granite 4 norm all channels as one group."""

    def normed(self, y: torch.Tensor, gate: torch.Tensor, parts: Parts) -> torch.Tensor:
        return gated_norm(y, gate, parts.norm, groups=1, eps=self.norm.variance_epsilon)


class _FalconH1(DocumentMamba2):
    """Falcon-H1 scales what goes into the projection and each part that comes out (muP); its norm may be
    missing, or come before the gate."""

    ssm_in_multiplier: float
    mup_vector: torch.Tensor
    mamba_rms_norm: bool

    def project(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return self.in_proj(hidden_states * self.ssm_in_multiplier) * self.mup_vector

    def normed(self, y: torch.Tensor, gate: torch.Tensor, parts: Parts) -> torch.Tensor:
        if not self.mamba_rms_norm:
            return y * F.silu(gate.to(y.dtype))
        groups, eps = self.norm.n_groups, self.norm.variance_epsilon
        if not self.norm.norm_before_gate:
            return gated_norm(y, gate, parts.norm, groups=groups, eps=eps)
        split = y.unflatten(-1, (groups, -1))
        split = split * torch.rsqrt(split.square().mean(-1, keepdim=True) + eps)
        return parts.norm * split.flatten(-2) * F.silu(gate.to(y.dtype))


# transformers' class -> how it differs from NemotronH's.
_LAYERS: dict[str, type[DocumentMamba2]] = {
    "BambaMixer": _OneNorm,
    "GraniteMoeHybridMambaLayer": _OneNorm,
    "FalconH1Mixer": _FalconH1,
    "Zamba2MambaMixer": DocumentMamba2,
}


def isolated(layer: torch.nn.Module) -> type | None:
    """The class that isolates documents in this layer, or None where none does."""
    if type(layer).__name__ == "NemotronHMamba2Mixer":
        return DocumentMamba2Mixer
    ours = _LAYERS.get(type(layer).__name__)
    # The convolution is fused with SiLU.
    if ours is None or getattr(layer, "activation", "silu") not in ("silu", "swish"):
        return None
    return in_front(ours, type(layer))


def limits(layer: Any, config: Any) -> tuple[float, float]:
    """Least and largest time step of a layer: the configuration's `time_step_limit`.

    transformers' NemotronH does not read it, and clamps at `time_step_min`, which is meant for initialisation.
    Zamba2 has no other limit than that one.
    """
    if not hasattr(config, "time_step_limit"):
        low, high = layer.time_step_limit
    else:
        low, high = config.time_step_limit or (0.0, float("inf"))
    return float(low), float(high)
