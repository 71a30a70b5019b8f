"""What the processes of a training send each other in a step, by closed formula. No torch.

Bytes that one process sends (and gets) itself. Weights: gathered before the layers' forward and backward
passes, once a microbatch each; embedding and unembedding once. Gradients: scattered after each backward
pass, in fp32. Rows: what processes that share one trade around convolution, scan and attention. What is
not counted: norms, losses and token counts (some numbers a step).
"""

from typing import NamedTuple

from model.cost import (
    Frozen,
    computed_bytes,
    held_bytes,
    in_fp8,
    lora_parameters,
    parameters_by_kind,
    products,
    stream_bytes,
)
from model.presets import HybridShape
from model.sizes import Shape, parameters
from workbench.load import TrainingLoad


class Communication(NamedTuple):
    """Bytes a process and step. state: weights and gradients between those that share one copy of the state.
    copies: gradients between copies (replicate, ddp). rows: between those that share a row."""

    state: float
    copies: float
    rows: float


def communication(s: Shape, load: TrainingLoad, frozen: Frozen = ()) -> Communication:
    """Of one step."""
    if load.workers == 1:
        return Communication(0.0, 0.0, 0.0)
    trained = lora_parameters(s, load.lora_rank) if load.lora_rank else parameters(s)
    n, b = load.shards, computed_bytes(load)
    if load.strategy == "ddp":
        return Communication(0.0, _all_reduced(4 * trained, n), 0.0)
    if load.strategy in ("zero2", "zero3"):
        # zero2 gathers what the optimizer updated, zero3 each layer whenever it is computed.
        back = trained if load.strategy == "zero2" else 2 * load.microbatches * parameters(s)
        return Communication(_part(n) * b * (back + load.microbatches * trained), 0.0, 0.0)
    output = parameters_by_kind(s).output
    gathered = 2 * _layers_bytes(s, load) + 4 * output
    gathered += sum(
        held_bytes(how.dtype) * parameters(one) * how.passes for one, how in frozen if how.sharded
    )
    each_pass = _part(n) * (gathered + 4 * trained)
    copies = _all_reduced(4 * trained / n, load.replicate)
    return Communication(
        load.microbatches * each_pass,
        load.microbatches * copies,
        load.microbatches * exchanged(s, load),
    )


def _part(n: int) -> float:
    """Of a whole that n processes hold in shares, what one of them does not have."""
    return (n - 1) / n


def _all_reduced(size: float, n: int) -> float:
    """Scattered and gathered again."""
    return 2 * size * _part(n)


def _layers_bytes(s: Shape, load: TrainingLoad) -> float:
    """All layers as they are gathered: matrices as they are computed (fp8: a byte), the rest in fp32."""
    matrices = sum(layer.parameters for layer in products(s))
    rest = parameters(s) - parameters_by_kind(s).output - matrices
    if load.lora_rank:
        size = held_bytes(load.base)
        return size * (matrices + rest) + 4 * lora_parameters(s, load.lora_rank)
    return computed_bytes(load) * matrices - in_fp8(s, load) + 4 * rest


def exchanged(s: Shape, load: TrainingLoad) -> float:
    """Bytes that a process sends to those that share its row, in one microbatch: the same way forward and
    back, and once more where layers are computed again."""
    if load.context == 1 or not isinstance(s, HybridShape):
        return 0.0
    b, stream = computed_bytes(load), stream_bytes(load)
    heads = s.num_attention_heads * s.head_dim
    keys = s.num_key_value_heads * s.head_dim
    a_token = s.pattern.count("M") * (
        b * (s.d_inner + s.conv_dim + s.mamba_num_heads) + stream * s.d_inner
    ) + s.pattern.count("*") * b * (heads + 2 * keys + heads)
    own = load.row_tokens * load.microbatch_rows / load.context
    passes = 2 + (load.activations != "keep")
    return _part(load.context) * passes * own * a_token
