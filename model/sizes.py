"""Parameter counts and memory of a hybrid by closed formula. Imports no torch.

The counts are checked against transformers' own model (meta device) in the tests.
"""

from typing import NamedTuple

from model.decoder import DecoderShape
from model.presets import HybridShape
from model.stack import StackShape

GIB = 2**30
Shape = HybridShape | DecoderShape | StackShape


# Logits that a CPU holds at once in a loss: what stays in its cache. In log-probabilities more: whoever fits in
# one slice keeps its probabilities and recomputes nothing.
CPU_LOGITS, CPU_SCORED_LOGITS = 1 << 20, 1 << 24
# A card's slice costs a dozen kernels and two passes over the output layer's weights whatever its size, so it is
# large: of 8 bytes a logit in hand (model.logprobs), a 32nd of the card, and no more than 2^29 of them.
MOST_LOGITS, SCORED_BYTES = 1 << 29, 8
_SLICE_OF_A_CARD = 32


def card_logits(memory: float) -> int:
    """Logits that a card of so many bytes holds at once, a power of two: one of 24 GB 2^26, of 80 GB 2^28.

    >>> [card_logits(gb * 1e9).bit_length() - 1 for gb in (24, 40, 80, 141)]
    [26, 27, 28, 29]
    """
    fitting = int(memory / _SLICE_OF_A_CARD / SCORED_BYTES)
    return min(1 << max(fitting.bit_length() - 1, 0), MOST_LOGITS)


class Memory(NamedTuple):
    """Bytes a served model holds, e.g. nano2-9b at 131,072 tokens: 16.56 + 2.00 + 0.07 GiB."""

    weights_bytes: int
    kv_cache_bytes: int
    state_bytes: int

    @property
    def total_bytes(self) -> int:
        return sum(self)


def mamba_parameters(s: HybridShape) -> int:
    """One Mamba-2 layer: in_proj, conv with bias, A_log + D + dt_bias, two norms, out_proj."""
    in_proj = s.hidden_size * (s.d_inner + s.conv_dim + s.mamba_num_heads)
    conv = s.conv_dim * (s.conv_kernel + 1)
    out_proj = s.d_inner * s.hidden_size
    return in_proj + conv + 3 * s.mamba_num_heads + s.d_inner + out_proj + s.hidden_size


def mlp_parameters(s: HybridShape) -> int:
    """One feed-forward layer (squared ReLU, no gate) and its norm."""
    return 2 * s.hidden_size * s.intermediate_size + s.hidden_size


def expert_parameters(s: HybridShape, *, active: bool = False) -> int:
    """One layer of experts and its norm: experts (no gate), the shared one, the router's matrix.

    active: of a token's own experts alone. The router's correction bias is a buffer, not a parameter.
    """
    experts = s.num_experts_per_tok if active else s.n_routed_experts
    widths = experts * s.moe_intermediate_size + s.moe_shared_expert_intermediate_size
    return s.hidden_size * (2 * widths + s.n_routed_experts + 1)


def attention_parameters(s: HybridShape) -> int:
    """One attention layer (no bias, no positions) and its norm."""
    heads = 2 * s.num_attention_heads + 2 * s.num_key_value_heads
    return s.hidden_size * heads * s.head_dim + s.hidden_size


def parameters(s: Shape) -> int:
    """All parameters: layers, embedding and output, final norm.

    >>> from model.presets import shape
    >>> round(parameters(shape("nano2-9b")) / 1e9, 3)
    8.888
    """
    if not isinstance(s, HybridShape):
        return s.parameters
    layers = (
        s.pattern.count("M") * mamba_parameters(s)
        + s.pattern.count("-") * mlp_parameters(s)
        + s.pattern.count("*") * attention_parameters(s)
        + s.pattern.count("E") * expert_parameters(s)
    )
    return layers + 2 * s.vocab_size * s.hidden_size + s.hidden_size


def active_parameters(s: Shape) -> int:
    """Those that one token passes: of layers of experts its own alone. The embedding is a look-up, and counts
    as its one row; so model cards count.

    >>> from model.presets import shape
    >>> round(active_parameters(shape("nano3-30b-a3b")) / 1e9, 1)
    3.2
    """
    if not isinstance(s, HybridShape):
        return s.parameters - s.idle_parameters
    each = expert_parameters(s) - expert_parameters(s, active=True)
    idle = s.pattern.count("E") * each + s.vocab_size * s.hidden_size - s.hidden_size
    return parameters(s) - idle


def kv_cache_bytes(s: Shape, tokens: int, *, bytes_per_value: int = 2) -> int:
    """Keys and values of the attention layers for `tokens` tokens of one sequence."""
    if not isinstance(s, HybridShape):
        return s.kv_cache_bytes(tokens, bytes_per_value)
    per_token = 2 * s.num_key_value_heads * s.head_dim * bytes_per_value
    return s.pattern.count("*") * per_token * tokens


def state_bytes(s: Shape, *, ssm_bytes: int = 4, conv_bytes: int = 2) -> int:
    """Recurrent state of one sequence, whatever its length: SSM state and convolution window.

    The SSM state is fp32 as the model card asks of servers (``mamba_ssm_cache_dtype float32``).
    """
    if not isinstance(s, HybridShape):
        return s.state_bytes(ssm_bytes, conv_bytes)
    ssm = s.d_inner * s.ssm_state_size * ssm_bytes
    conv = s.conv_dim * (s.conv_kernel - 1) * conv_bytes
    return s.pattern.count("M") * (ssm + conv)


def memory(s: HybridShape, *, tokens: int, batch: int = 1, bytes_per_value: int = 2) -> Memory:
    """Bytes to serve `batch` sequences of `tokens` tokens: weights, KV cache, recurrent state."""
    return Memory(
        weights_bytes=parameters(s) * bytes_per_value,
        kv_cache_bytes=batch * kv_cache_bytes(s, tokens, bytes_per_value=bytes_per_value),
        state_bytes=batch * state_bytes(s, conv_bytes=bytes_per_value),
    )
