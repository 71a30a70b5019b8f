"""NemotronH's Mamba-2 layer with documents isolated in its convolution and its scan.

Installed by swapping the class of transformers' layer: same modules, same state dict.
"""

from typing import Any

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


class DocumentMamba2Mixer(NemotronHMamba2Mixer):
    """Mamba-2 over packed rows. With a cache it is transformers' own layer."""

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
            return super().forward(hidden_states, cache_params, attention_mask, **kwargs)
        if document_layout is not None:
            attention_mask = None  # padding is documents of its own in the layout
        hidden_states = apply_mask_to_padding_states(hidden_states, attention_mask)
        inner = self.intermediate_size
        gate, xbc, dt = self.in_proj(hidden_states).split(
            [inner, self.conv_dim, self.num_heads], -1
        )
        low, high = self.time_step_limit
        dt = F.softplus(dt.float() + self.dt_bias.float()).clamp(low, high)
        a = -torch.exp(self.A_log.float())
        serve = kernels.mamba_kernels_serve(xbc, document_layout)
        path = self._kernels if serve else self._torch
        y = path(xbc, dt, a, attention_mask, document_layout)
        y = gated_norm(
            y,
            gate,
            self.norm.weight,
            groups=inner // self.norm.group_size,
            eps=self.norm.variance_epsilon,
        )
        return self.out_proj(y.to(hidden_states.dtype))

    def _torch(
        self,
        xbc: torch.Tensor,
        dt: torch.Tensor,
        a: torch.Tensor,
        padding: torch.Tensor | None,
        layout: DocumentLayout | None,
    ) -> torch.Tensor:
        """Convolution and scan in torch operations -> [B, T, heads * head_dim], fp32."""
        xbc = causal_conv_silu(xbc, self.conv1d.weight.squeeze(1), self.conv1d.bias, layout)
        xbc = apply_mask_to_padding_states(xbc, padding)
        sizes = Sizes(self.num_heads, self.head_dim, self.n_groups, self.ssm_state_size)
        return chunk_scan(xbc, dt, a, self.D, sizes, layout=layout)

    def _kernels(
        self,
        xbc: torch.Tensor,
        dt: torch.Tensor,
        a: torch.Tensor,
        padding: torch.Tensor | None,
        layout: DocumentLayout | None,
    ) -> torch.Tensor:
        """The same through mamba-ssm and causal-conv1d on CUDA."""
        rows, length, _ = xbc.shape
        seq_idx = None if layout is None else layout.document.int()
        weight = self.conv1d.weight.squeeze(1)
        xbc = kernels.conv_silu(xbc, weight, self.conv1d.bias, seq_idx)
        xbc = apply_mask_to_padding_states(xbc, padding)
        state = self.n_groups * self.ssm_state_size
        x, b, c = xbc.split([self.intermediate_size, state, state], dim=-1)
        b, c = (v.reshape(rows, length, self.n_groups, -1) for v in (b, c))
        x = x.reshape(rows, length, self.num_heads, self.head_dim)
        y = kernels.chunk_scan(
            x, dt, a, b, c, d=self.D.float(), chunk=self.chunk_size, seq_idx=seq_idx
        )
        return y.reshape(rows, length, -1).float()
