"""Layers of vLLM's models on a CPU: the same arithmetic in fewer passes and calls.

vLLM 0.32 walks over the states of a convolution channel by channel and over prompts one by one, and works a
norm out in eight operations of torch where it has one kernel. Of a small model's decoding step that is a
quarter. Whatever is not plain fp32 goes through vLLM's own code.
"""

from typing import Any

import torch
import torch.nn.functional as F
from vllm import _custom_ops
from vllm.forward_context import get_forward_context
from vllm.model_executor.custom_op import CustomOp, PluggableLayer, op_registry_oot
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.mamba import mamba_mixer2 as theirs

from model.layers.conv import causal_conv_silu
from model.layers.layout import DocumentLayout


def install() -> None:
    """Have the models that vLLM makes in this process from here on use them."""
    if "RMSNorm" not in op_registry_oot:
        CustomOp.register_oot(CpuRMSNorm, name="RMSNorm")
        CustomOp.register_oot(CpuGatedNorm, name="Mixer2RMSNormGated")
        PluggableLayer.register_oot(CpuMamba, name="MambaMixer2")


class CpuRMSNorm(RMSNorm):  # type: ignore[misc]
    """By the kernel that vLLM has for CPUs. The stream is added to in place, as on a card."""

    def forward(self, x: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        """The norm of x; with a residual, (the norm of their sum, their sum)."""
        if not self._plain(x):
            return super().forward(x, residual)
        if residual is None:
            out = torch.empty_like(x)
            _custom_ops.rms_norm(out, x, self.weight.data, self.variance_epsilon)
            return out
        _custom_ops.fused_add_rms_norm(x, residual, self.weight.data, self.variance_epsilon)
        return x, residual

    def _plain(self, x: torch.Tensor) -> bool:
        return (
            self.has_weight
            and self.variance_size_override is None
            and x.dtype == self.weight.dtype == torch.float32
            and x.dim() == 2
            and x.is_contiguous()
        )


class CpuGatedNorm(theirs.Mixer2RMSNormGated):  # type: ignore[misc]
    """The norm of a Mamba-2 layer, without tables for each of its operations."""

    def forward(self, x: torch.Tensor, gate: torch.Tensor) -> torch.Tensor:
        """x * silu(gate) [T, D], each group of channels by its own norm."""
        if not (self.use_rms_norm and self.tp_size == 1 and x.dtype == torch.float32):
            out: torch.Tensor = super().forward(x, gate)
            return out
        groups = F.silu(gate).mul_(x).view(len(x), self.n_groups, -1)
        normed = F.rms_norm(groups, (self.group_size,), eps=self.variance_epsilon)
        return normed.view(x.shape).mul_(self.weight)


class CpuMamba(theirs.MambaMixer2):  # type: ignore[misc]
    """A Mamba-2 layer over sequences that get one token each, and prompts behind them."""

    def forward(
        self, hidden_states: torch.Tensor, mup_vector: torch.Tensor | None = None
    ) -> torch.Tensor:
        """[T, hidden] -> [T, hidden]."""
        metadata = self._plain_step(hidden_states)
        if metadata is None:
            out: torch.Tensor = super().forward(hidden_states, mup_vector)
            return out
        projected, _ = self.in_proj(hidden_states)
        if mup_vector is not None:
            projected = projected * mup_vector
        gate, channels, dt = projected.split(
            [self.tped_intermediate_size, self.tped_conv_size, self.tped_dt_size], dim=-1
        )
        mixed = projected.new_empty(len(projected), *self.kv_cache[1].shape[1:3])
        ones = metadata.num_decodes
        if ones:
            slots = metadata.state_indices_tensor_d.view(ones)
            self._one_token(channels[:ones], dt[:ones], slots, mixed[:ones])
        if metadata.num_prefills:
            self._prompts(channels[ones:], dt[ones:], metadata, mixed[ones:])
        out, _ = self.out_proj(self.norm(mixed.view(len(mixed), -1), gate))
        return out

    def _plain_step(self, hidden_states: torch.Tensor) -> Any:
        """What vLLM says of the step, if all of it is plain fp32, without states from before a prompt."""
        found = get_forward_context().attn_metadata
        metadata = found.get(self.prefix) if isinstance(found, dict) else None
        plain = (
            metadata is not None
            and metadata.num_decode_tokens == metadata.num_decodes
            and metadata.num_decodes + metadata.num_prefill_tokens == len(hidden_states)
            and not metadata.prep_initial_states
            and metadata.checkpoint_chunk_idx is None
            and not self.use_replayssm
            and self.num_spec == 0
            and self.activation in ("silu", "swish")
            and not theirs.is_conv_state_dim_first()
            and hidden_states.dtype == self.kv_cache[0].dtype == torch.float32
        )
        return metadata if plain else None

    def _one_token(
        self, channels: torch.Tensor, dt: torch.Tensor, slots: torch.Tensor, out: torch.Tensor
    ) -> None:
        """Convolution and recurrence of one token of each sequence into out [S, heads, head_dim]."""
        states = self.kv_cache[0]  # [slots, K - 1, C], the oldest token first
        seen = states.index_select(0, slots)
        taps = self.conv_weights.t().contiguous()
        mixed = channels * taps[-1]
        if self.conv1d.bias is not None:
            mixed += self.conv1d.bias
        for place in range(seen.shape[1]):
            mixed.addcmul_(seen[:, place], taps[place])
        states.index_copy_(0, slots.long(), torch.cat([seen[:, 1:], channels.unsqueeze(1)], 1))
        x, b, c = self._heads(F.silu(mixed, inplace=True))
        width, size = self.kv_cache[1].shape[2:]
        theirs.selective_state_update(
            self.kv_cache[1],
            x,
            dt[:, :, None].expand(-1, -1, width),
            self.A[:, None, None].expand(-1, width, size),
            b,
            c,
            self.D[:, None].expand(-1, width),
            self.dt_bias[:, None].expand(-1, width),
            dt_softplus=True,
            state_batch_indices=slots,
            dst_state_batch_indices=slots,
            out=out,
        )

    def _prompts(
        self, channels: torch.Tensor, dt: torch.Tensor, metadata: Any, out: torch.Tensor
    ) -> None:
        """Convolution and scan of whole prompts into out [T, heads, head_dim], and the states they leave."""
        starts, slots = metadata.query_start_loc_p, metadata.state_indices_tensor_p.long()
        lengths = starts.diff()
        prompts = torch.arange(len(lengths)).repeat_interleave(lengths)[None]
        mixed = causal_conv_silu(
            channels[None], self.conv_weights, self.conv1d.bias, DocumentLayout(prompts)
        )
        self.kv_cache[0].index_copy_(0, slots, self._last_tokens(channels, starts))
        x, b, c = self._heads(mixed[0])
        self.kv_cache[1][slots] = theirs.mamba_chunk_scan_combined_varlen(
            x,
            dt,
            self.A,
            b,
            c,
            chunk_size=metadata.chunk_size,
            D=self.D,
            z=None,
            dt_bias=self.dt_bias,
            seq_idx=metadata.seq_idx_p,
            cu_seqlens=starts,
            cu_chunk_seqlens=metadata.cu_chunk_seqlen_p,
            last_chunk_indices=metadata.last_chunk_indices_p,
            initial_states=None,
            return_intermediate_states=False,
            dt_softplus=True,
            dt_limit=(0.0, float("inf")),
            out=out,
            state_dtype=self.kv_cache[1].dtype,
        )

    def _last_tokens(self, channels: torch.Tensor, starts: torch.Tensor) -> torch.Tensor:
        """[S, K - 1, C] the last tokens of each prompt, zeros before its first."""
        back = torch.arange(1 - self.conv_weights.shape[1], 0)
        places = starts[1:, None] + back
        before = places < starts[:-1, None]
        return channels[places.clamp(min=0)].masked_fill_(before[..., None], 0.0)

    def _heads(self, mixed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """x [T, heads, head_dim], B and C [T, groups, states] of what leaves the convolution."""
        heads, width, size = self.kv_cache[1].shape[1:]
        x, b, c = self.split_hidden_states_B_C_fn(mixed)
        return x.view(-1, heads, width), b.view(len(b), -1, size), c.view(len(c), -1, size)
