"""Mamba-2 layers with documents isolated in their convolution and their scan.

Installed by swapping the class of transformers' layer: same modules, same state dict. NemotronH's is
here; those of the other hybrids are in `model.layers.hybrids`.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from transformers.models.nemotron_h.modeling_nemotron_h import (
    NemotronHMamba2Mixer,
    apply_mask_to_padding_states,
)

from model.layers import kernels
from model.layers.conv import causal_conv_silu
from model.layers.gated_norm import gated_norm
from model.layers.layout import DocumentLayout
from model.layers.scan import Sizes, chunk_scan


class Parts(NamedTuple):
    """Parameters of a layer's heads, all of them or a share: [heads] where not said otherwise.

    conv_weight [channels of x, B and C, taps], conv_bias the same channels; decay: A_log; skip: D;
    norm [heads * head_dim], or [0] where the family has none.
    """

    conv_weight: torch.Tensor
    conv_bias: torch.Tensor | None
    dt_bias: torch.Tensor
    decay: torch.Tensor
    skip: torch.Tensor
    norm: torch.Tensor
    heads: int
    groups: int


class DocumentMamba2:
    """Mamba-2 over packed rows, in front of a family's own layer class. With a cache it is that layer."""

    num_heads: int
    head_dim: int
    n_groups: int
    ssm_state_size: int
    intermediate_size: int
    chunk_size: int
    time_step_limit: tuple[float, float]
    in_proj: torch.nn.Module
    out_proj: torch.nn.Module
    conv1d: torch.nn.Conv1d
    norm: Any
    dt_bias: torch.Tensor
    A_log: torch.Tensor
    D: torch.Tensor

    def forward(
        self,
        hidden_states: torch.Tensor,
        cache_params: Any = None,
        attention_mask: torch.Tensor | None = None,
        document_layout: DocumentLayout | None = None,
        seq_idx: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """hidden_states [B, T, hidden] -> [B, T, hidden].

        attention_mask [B, T] marks padding (0) of unpacked rows. seq_idx [B, T] or the layout
        made from it isolates documents; ValueError if a cache is given as well.
        """
        if document_layout is None and seq_idx is not None:
            document_layout = DocumentLayout(seq_idx)
        if cache_params is not None:
            if document_layout is not None:
                raise ValueError("seq_idx cannot be combined with a state cache")
            # Of the family's class, which stands behind this one.
            return super().forward(hidden_states, cache_params, attention_mask, **kwargs)  # type: ignore[misc]
        if document_layout is not None:
            attention_mask = None  # padding is documents of its own in the layout
        hidden_states = apply_mask_to_padding_states(hidden_states, attention_mask)
        gate, xbc, dt = self.cut(self.project(hidden_states), self.widths())
        y = self.mix(gate, xbc, dt, self.parts(), attention_mask, document_layout)
        return self.out_proj(y.to(hidden_states.dtype))

    def project(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """[B, T, hidden] -> gate, x, B, C and dt side by side."""
        return self.in_proj(hidden_states)

    def widths(self) -> list[int]:
        """Channels of the gate, x, B, C and dt, as in_proj makes them."""
        state = self.n_groups * self.ssm_state_size
        return [self.intermediate_size, self.intermediate_size, state, state, self.num_heads]

    def cut(
        self, projected: torch.Tensor, widths: list[int]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The gate, x with B and C, and dt."""
        gate, xbc, dt = projected.split([widths[0], sum(widths[1:4]), widths[4]], -1)
        return gate, xbc, dt

    def parts(self) -> Parts:
        """The layer's own parameters."""
        return Parts(
            conv_weight=self.conv1d.weight.squeeze(1),
            conv_bias=self.conv1d.bias,
            dt_bias=self.dt_bias,
            decay=self.A_log,
            skip=self.D,
            norm=getattr(self.norm, "weight", self.D[:0]),
            heads=self.num_heads,
            groups=self.n_groups,
        )

    def mix(
        self,
        gate: torch.Tensor,
        xbc: torch.Tensor,
        dt: torch.Tensor,
        parts: Parts,
        padding: torch.Tensor | None,
        layout: DocumentLayout | None,
    ) -> torch.Tensor:
        """Convolution, scan and gated norm over whole rows -> [B, T, heads * head_dim], fp32."""
        low, high = self.time_step_limit
        dt = F.softplus(dt.float() + parts.dt_bias.float()).clamp(low, high)
        a = -torch.exp(parts.decay.float())
        serve = kernels.mamba_kernels_serve(xbc, layout)
        path = self._kernels if serve else self._torch
        y = path(xbc, dt, a, parts, padding, layout)
        return self.normed(y, gate, parts)

    def normed(self, y: torch.Tensor, gate: torch.Tensor, parts: Parts) -> torch.Tensor:
        """The gate and the norm, over groups of channels -> [B, T, heads * head_dim], fp32."""
        groups = parts.heads * self.head_dim // self.norm.group_size
        return gated_norm(y, gate, parts.norm, groups=groups, eps=self.norm.variance_epsilon)

    def _torch(
        self,
        xbc: torch.Tensor,
        dt: torch.Tensor,
        a: torch.Tensor,
        parts: Parts,
        padding: torch.Tensor | None,
        layout: DocumentLayout | None,
    ) -> torch.Tensor:
        """Convolution and scan in torch operations -> [B, T, heads * head_dim], fp32."""
        xbc = causal_conv_silu(xbc, parts.conv_weight, parts.conv_bias, layout)
        xbc = apply_mask_to_padding_states(xbc, padding)
        sizes = Sizes(parts.heads, self.head_dim, parts.groups, self.ssm_state_size)
        return chunk_scan(xbc, dt, a, parts.skip, sizes, layout=layout)

    def _kernels(
        self,
        xbc: torch.Tensor,
        dt: torch.Tensor,
        a: torch.Tensor,
        parts: Parts,
        padding: torch.Tensor | None,
        layout: DocumentLayout | None,
    ) -> torch.Tensor:
        """The same through mamba-ssm and causal-conv1d on CUDA."""
        rows, length, _ = xbc.shape
        seq_idx = None if layout is None else layout.document.int()
        xbc = kernels.conv_silu(xbc, parts.conv_weight, parts.conv_bias, seq_idx)
        xbc = apply_mask_to_padding_states(xbc, padding)
        state = parts.groups * self.ssm_state_size
        x, b, c = xbc.split([parts.heads * self.head_dim, state, state], dim=-1)
        b, c = (v.reshape(rows, length, parts.groups, -1) for v in (b, c))
        x = x.reshape(rows, length, parts.heads, self.head_dim)
        y = kernels.chunk_scan(
            x, dt, a, b, c, d=parts.skip.float(), chunk=self.chunk_size, seq_idx=seq_idx
        )
        return y.reshape(rows, length, -1).float()


class DocumentMamba2Mixer(DocumentMamba2, NemotronHMamba2Mixer):
    """NemotronH's Mamba-2 layer over packed rows."""
