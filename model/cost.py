"""What training and serving a hybrid costs, by closed formula: memory a GPU, FLOPs. No torch.

Each function states what it counts. Symbols: P parameters, N processes, H hidden, F feed-forward,
D inner width of a Mamba layer, S state size, G groups, V vocabulary, T tokens of one microbatch.
What is not counted: the CUDA context and NCCL's buffers (1-2 GB a GPU), fragmentation, and
kernels' scratch space.
"""

from collections.abc import Sequence
from typing import NamedTuple

from model.presets import LAYER_KINDS, HybridShape
from model.sizes import (
    CPU_LOGITS,
    CPU_SCORED_LOGITS,
    SCORED_BYTES,
    Shape,
    attention_parameters,
    card_logits,
    expert_parameters,
    mamba_parameters,
    mlp_parameters,
    parameters,
    state_bytes,
)
from model.stack import SCAN_CHUNK, Held, Products
from workbench.distributed.zero import BUCKET_VALUES, GATHER_PARAMETERS
from workbench.load import Beside, ScoringLoad, TrainingLoad

Frozen = Sequence[tuple[Shape, Beside]]
"""Models beside the trained one, with their shapes."""


class LayerParameters(NamedTuple):
    """Parameters by layer kind. mlp: layers of experts too. output: embedding and unembedding (untied), and
    the final norm."""

    mamba: int
    mlp: int
    attention: int
    output: int


def parameters_by_kind(s: Shape) -> LayerParameters:
    """All parameters, by the kind of layer they are in; they sum to `sizes.parameters`.

    The norms of a Transformer's layer count with its attention.
    """
    if not isinstance(s, HybridShape):
        return LayerParameters(*s.by_kind)
    return LayerParameters(
        mamba=s.pattern.count("M") * mamba_parameters(s),
        mlp=s.pattern.count("-") * mlp_parameters(s) + s.pattern.count("E") * expert_parameters(s),
        attention=s.pattern.count("*") * attention_parameters(s),
        output=2 * s.vocab_size * s.hidden_size + s.hidden_size,
    )


def lora_parameters(s: Shape, rank: int) -> int:
    """Adapters of model.lora: rank x (inputs + outputs) of in_proj, up, down, q, k, v and o; of
    experts the shared one."""
    if not isinstance(s, HybridShape):
        return s.lora_parameters(rank)
    heads, keys = s.num_attention_heads * s.head_dim, s.num_key_value_heads * s.head_dim
    mamba = s.hidden_size + s.d_inner + s.conv_dim + s.mamba_num_heads
    mlp = 2 * (s.hidden_size + s.intermediate_size)
    attention = 2 * (s.hidden_size + heads) + 2 * (s.hidden_size + keys)
    shared = 2 * (s.hidden_size + s.moe_shared_expert_intermediate_size)
    of_kind = {"M": mamba, "-": mlp, "*": attention, "E": shared}
    return rank * sum(of_kind[kind] for kind in s.pattern)


def forward_flops(s: Shape, document_tokens: float) -> float:
    """FLOPs of one token's forward pass, mean over a document (a multiply-add is 2).

    Matrix products: 2 x parameters of every projection and of the unembedding (an embedding is a
    look-up). Attention: scores and their sum with the values, causal, so half the document on
    average. Scan: chunks of Q tokens, 2Q(GS + D) inside a chunk and 4DS for the states. Conv: 2K
    a channel. Norms, activations and softmax are not counted.
    """
    if not isinstance(s, HybridShape):
        return s.forward_flops(document_tokens)
    mamba = s.hidden_size * (s.d_inner + s.conv_dim + s.mamba_num_heads) + s.d_inner * s.hidden_size
    chunk = min(SCAN_CHUNK, document_tokens)
    scan = (
        2 * chunk * (s.n_groups * s.ssm_state_size + s.d_inner) + 4 * s.d_inner * s.ssm_state_size
    )
    conv = 2 * s.conv_kernel * s.conv_dim
    heads = 2 * s.num_attention_heads + 2 * s.num_key_value_heads
    attention = s.hidden_size * heads * s.head_dim
    scores = 4 * (document_tokens / 2) * s.num_attention_heads * s.head_dim
    return (
        s.pattern.count("M") * (2 * mamba + scan + conv)
        + s.pattern.count("-") * 2 * (2 * s.hidden_size * s.intermediate_size)
        + s.pattern.count("*") * (2 * attention + scores)
        + s.pattern.count("E") * 2 * expert_parameters(s, active=True)
        + 2 * s.vocab_size * s.hidden_size
    )


class DecodeStep(NamedTuple):
    """Seconds of one decoding step, by part. weights: all of them are read once. sequence: a sequence's cache
    is read, its states are read and written. compute: a sequence's FLOPs."""

    weights: float
    sequence: float
    compute: float

    def seconds(self, sequences: float) -> float:
        """Of a step that gives every sequence a token: what is read, or what is computed, if that is more."""
        return max(self.weights + sequences * self.sequence, sequences * self.compute)


def decode_step(
    s: Shape, context_tokens: float, *, cache: float, bandwidth: float, flops: float, size: int = 2
) -> DecodeStep:
    """On a device that reaches so many bytes and FLOPs a second.

    context_tokens: those that the mean step's new token sees. cache: bytes of a sequence's cache that it reads.
    size: bytes of a weight.
    """
    moved = cache + 2 * state_bytes(s, conv_bytes=size)
    # It sees all of its context: as many as a token sees on average in a document twice as long.
    computed = forward_flops(s, 2 * context_tokens)
    return DecodeStep(parameters(s) * size / bandwidth, moved / bandwidth, computed / flops)


def training_flops(s: Shape, load: TrainingLoad, frozen: Frozen = ()) -> float:
    """FLOPs of all the stage's tokens: backward is twice forward, checkpointing one forward more.

    This counts what the hardware does; the share that is not recomputation is 3/4 of it with
    checkpoints. With LoRA the frozen matrices need no gradient of their own: 2 instead of 3. Frozen models
    that are shared by the trainers read the tokens too.
    """
    document = load.document_tokens or load.row_tokens
    passes = (2 if load.lora_rank else 3) + (load.activations != "keep")
    read = sum(how.passes * forward_flops(one, document) for one, how in frozen if how.sharded)
    return (passes * forward_flops(s, document) + read) * load.tokens


class TrainingMemory(NamedTuple):
    """Bytes of one process. host: activations moved to the CPU's memory (activations: offload). beside: a
    frozen model's."""

    weights: int
    gradients: int
    optimizer: int
    buffers: int
    activations: int
    output: int
    host: int
    beside: int = 0

    @property
    def device_bytes(self) -> int:
        """All that lies on the GPU."""
        return sum(self) - self.host


def training_memory(
    s: Shape, load: TrainingLoad, frozen: Frozen = (), *, card: float | None = None
) -> TrainingMemory:
    """Peak bytes of the first process while it trains, at whole rows. card: bytes of the card's memory, by
    which logits are sliced; None: on a CPU."""
    weights, gradients, optimizer, buffers = _state_bytes(s, load)
    activations, host = _activation_bytes(s, load)
    beside = sum(_beside_bytes(one, load, how) for one, how in frozen)
    output = _output_bytes(s, load, gradients, card)
    return TrainingMemory(weights, gradients, optimizer, buffers, activations, output, host, beside)


def _beside_bytes(s: Shape, load: TrainingLoad, how: Beside) -> int:
    """Of a frozen model: all of it, or a share, two gathered layers, embedding and unembedding."""
    b = held_bytes(how.dtype)
    if not how.sharded or load.shards == 1:
        return b * parameters(s)
    whole = 2 * max(_layer_parameters(s)) + parameters_by_kind(s).output
    return b * parameters(s) // load.shards + b * whole


def held_bytes(dtype: str) -> int:
    """Bytes of a value of this type."""
    return 2 if dtype == "bfloat16" else 4


class ScoringMemory(NamedTuple):
    """Bytes of forward passes: the model, what goes into every layer with one layer's values, a slice of
    logits."""

    weights: int
    activations: int
    output: int

    @property
    def device_bytes(self) -> int:
        """All of it."""
        return sum(self)


def scoring_memory(s: Shape, load: ScoringLoad, *, card: float | None = None) -> ScoringMemory:
    """Peak bytes of a process that asks a whole model. A layer's values are those that it would keep. card:
    see `training_memory`."""
    kept = _layers_bytes(s, TrainingLoad(load.tokens, load.row_tokens, load.microbatch_rows))
    tokens, b = load.row_tokens * load.microbatch_rows, held_bytes(load.dtype)
    largest = max(kept) * b // 4
    inputs = (len(kept) + 2) * s.hidden_size * b  # with what comes out at the end, of two models
    logits = SCORED_BYTES * _logits(s, tokens, CPU_LOGITS if card is None else card_logits(card))
    return ScoringMemory(b * parameters(s), tokens * (largest + inputs), logits)


def _state_bytes(s: Shape, load: TrainingLoad) -> tuple[int, int, int, int]:
    """Weights, gradients, optimizer, buffers.

    none and ddp: fp32 weights 4P, gradients 4P, Adam's moments 8P; under bf16 autocast the cast
    weights 2P, kept until the step's end (buffers). ddp: gradient buckets are the gradients.
    zero2 and zero3 with bf16: bf16 weights 2P and gradients 2P; fp32 master weights and moments
    12P. zero2 divides gradients and optimizer by N, zero3 the weights too, and then holds the
    gathered layers (at most GATHER_PARAMETERS). Both hold one bucket of gradients.
    fp32: 4 for 2, throughout. LoRA: gradients and optimizer of the adapters alone; a frozen base in
    bf16 has 2P and needs no cast. One in 4 bits: `base_bytes`, and the matrix that is being multiplied.
    fsdp: fp32 weights, gradients and moments (of adapters, and the base as it is held) over N / replicate
    processes; in the buffers what `_gathered_layer` says, and the embedding and unembedding, whole in fp32.
    fp8: as bf16, but of quantised matrices a byte a parameter (their scales are 1/4096 of that).
    """
    total = parameters(s)
    trained = lora_parameters(s, load.lora_rank) if load.lora_rank else total
    held = total + (trained if load.lora_rank else 0)
    if load.strategy in ("none", "ddp"):
        half = load.lora_rank is not None and load.base != "float32"
        cast = 2 * (held - total * half) if load.precision != "fp32" else 0
        cast -= in_fp8(s, load)  # a byte instead of two
        frozen = base_bytes(s, load.base) if load.lora_rank else 4 * total
        if load.lora_rank and load.base == "nf4":
            cast += computed_bytes(load) * largest_matrix(s)
        return frozen + 4 * (held - total), 4 * trained, 8 * trained, cast
    if load.strategy == "fsdp":
        shards = load.shards
        gathered = _gathered_layer(s, load) + 4 * parameters_by_kind(s).output
        if load.lora_rank:
            base = base_bytes(s, load.base) + 4 * trained
            return base // shards, 4 * trained // shards, 8 * trained // shards, gathered
        return 4 * total // shards, 4 * total // shards, 8 * total // shards, gathered
    size, workers = (computed_bytes(load)), load.workers
    bucket = size * min(BUCKET_VALUES, trained)
    gradients, optimizer = size * trained // workers, 12 * trained // workers
    if load.strategy == "zero2":
        return size * held, gradients, optimizer, bucket
    gathered = size * min(GATHER_PARAMETERS, held)
    return size * held // workers, gradients, optimizer, bucket + gathered


def _gathered_layer(s: Shape, load: TrainingLoad) -> int:
    """Bytes of the layer that takes most under fsdp: two of it are gathered, beside a gradient of one.

    Matrices travel as they are computed and their gradients are added in fp32; fp8: two at a byte, one turned for
    the backward pass, and a gradient twice in fp32. The rest (experts, which are one tensor, and vectors) travels
    as it is held: in fp32, and so does its gradient. A base beside adapters has no gradient.
    """
    b, held = computed_bytes(load), held_bytes(load.base)
    matrix, rest, in_fp8 = 2 * b + b + 4, 2 * 4 + 4 + 4, 2 * 1 + 1 + 4 + 4
    if load.lora_rank:
        matrix, rest = 2 * min(b, held), 2 * held
    layers = zip(_layer_parameters(s), products(s), quantised_shares(s, load), strict=True)
    return max(
        round(of.parameters * (share * in_fp8 + (1 - share) * matrix))
        + rest * (whole - of.parameters)
        for whole, of, share in layers
    )


# A code, a byte for the scale of 64, and 4 bytes for the scale of 256 of these (model.nf4).
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)


def base_bytes(s: Shape, base: str) -> int:
    """Bytes of a frozen model beside adapters. In 4 bits are its layers' products alone."""
    if base != "nf4":
        return held_bytes(base) * parameters(s)
    few = sum(layer.parameters for layer in products(s))
    return round(NF4_BYTES * few) + 2 * (parameters(s) - few)


def largest_matrix(s: Shape) -> int:
    """Values of the largest one of a layer: of a feed-forward's, or of Mamba's in_proj."""
    if not isinstance(s, HybridShape):
        return s.largest_matrix
    widths = [s.intermediate_size]
    if "M" in s.pattern:
        widths.append(s.d_inner + s.conv_dim + s.mamba_num_heads)
    return s.hidden_size * max(widths)


def computed_bytes(load: TrainingLoad) -> int:
    """Bytes of a value that is computed."""
    return 4 if load.precision == "fp32" else 2


def products(s: Shape) -> list[Products]:
    """Of every layer, in order."""
    if not isinstance(s, HybridShape):
        return s.products
    heads = 2 * s.num_attention_heads + 2 * s.num_key_value_heads
    kinds = {
        "M": Products(2, s.hidden_size * (2 * s.d_inner + s.conv_dim + s.mamba_num_heads)),
        "-": Products(2, 2 * s.hidden_size * s.intermediate_size),
        "*": Products(4, s.hidden_size * heads * s.head_dim),
        # Routed experts are one tensor, which stays as it is.
        "E": Products(2, 2 * s.hidden_size * s.moe_shared_expert_intermediate_size),
    }
    return [kinds[kind] for kind in s.pattern]


def quantised_shares(s: Shape, load: TrainingLoad) -> list[float]:
    """The share of each layer's products that `precision: fp8` quantises: all but those at the ends."""
    layers = products(s)
    first, last = load.fp8_ends, sum(p.number for p in layers) - load.fp8_ends
    shares, at = list[float](), 0
    for layer in layers:
        inside = max(0, min(at + layer.number, last) - max(at, first))
        shares.append(inside / layer.number if load.precision == "fp8" else 0.0)
        at += layer.number
    return shares


def in_fp8(s: Shape, load: TrainingLoad) -> int:
    """Parameters of quantised matrices."""
    pairs = zip(products(s), quantised_shares(s, load), strict=True)
    return round(sum(layer.parameters * share for layer, share in pairs))


def fp8_share(s: Shape, load: TrainingLoad) -> float:
    """The share of a training's FLOPs that are products in FP8."""
    document = load.document_tokens or load.row_tokens
    return 2 * in_fp8(s, load) / forward_flops(s, document)


def _layer_parameters(s: Shape) -> list[int]:
    """Parameters of every layer, in order; 0 of those that another layer owns."""
    if not isinstance(s, HybridShape):
        return s.layer_parameters
    counted = {"M": mamba_parameters(s), "-": mlp_parameters(s), "*": attention_parameters(s)}
    counted |= {"E": expert_parameters(s)}
    return [counted[kind] for kind in s.pattern]


def _activation_bytes(s: Shape, load: TrainingLoad) -> tuple[int, int]:
    """(on the device, on the host).

    keep: what every layer keeps for its backward pass. checkpoint: each layer's input, and one
    layer at a time in full. offload: the same with the inputs on the host, two at a time here. Each
    process has its slice of a row that several share.
    """
    tokens = load.row_tokens * load.microbatch_rows // load.context
    kept = [tokens * size for size in _layers_bytes(s, load)]
    if load.activations == "keep":
        return sum(kept), 0
    inputs = tokens * s.hidden_size * stream_bytes(load)
    if load.activations == "checkpoint":
        return len(kept) * inputs + max(kept), 0
    return 2 * inputs + max(kept), len(kept) * inputs


def _layers_bytes(s: Shape, load: TrainingLoad) -> list[int]:
    """Bytes a token that each layer keeps."""
    if not isinstance(s, HybridShape):
        held = Held(computed_bytes(load), stream_bytes(load), load.row_tokens)
        return s.layers_activation_bytes(held)
    per_layer = {kind: layer_activation_bytes(s, kind, load) for kind in LAYER_KINDS}
    saved = {kind: _saved_in_fp8(s, kind) for kind in LAYER_KINDS}
    shares = quantised_shares(s, load)
    return [
        per_layer[kind] + round(share * saved[kind])
        for kind, share in zip(s.pattern, shares, strict=True)
    ]


def _saved_in_fp8(s: HybridShape, kind: str) -> float:
    """Bytes a token that a layer keeps more (less than 0: fewer) where its products are in FP8: each has its
    own input at a byte and a scale for 128, where bf16 keeps two bytes; attention's output stays beside."""
    b = 1 + 4 / 128
    if kind == "M":
        return (b - 2) * (s.hidden_size + s.d_inner)
    if kind == "-":
        return (b - 2) * (s.hidden_size + s.intermediate_size)
    if kind == "E":  # the shared one's products alone
        return (b - 2) * (s.hidden_size + s.moe_shared_expert_intermediate_size)
    return (3 * b - 2) * s.hidden_size + b * s.num_attention_heads * s.head_dim


def stream_bytes(load: TrainingLoad) -> int:
    """Bytes a value of the residual stream: that of the weights (autocast leaves it in fp32)."""
    return 2 if load.precision != "fp32" and load.strategy in ("zero2", "zero3") else 4


def layer_activation_bytes(s: HybridShape, kind: str, load: TrainingLoad) -> int:
    """Bytes a token that one layer keeps for its backward pass (b: bytes a computed value).

    Every layer: the norm's input, its fp32 normed value and the input of the first projection.
    M: conv's input, the sum before SiLU and the result (x, B and C), in fp32; dt; the gate; the
    scan's output in fp32; the input of out_proj; a state once a chunk.
    -: the ReLU and its square.  E: the same of each expert that a token has, its input and output there,
    and two numbers of the router for each expert.  *: q, k, v, k and v repeated for every query head, the output,
    and a number a head.
    """
    b = computed_bytes(load)
    common = s.hidden_size * (stream_bytes(load) + 4 + b)
    if kind == "M":
        states = 4 * s.d_inner * s.ssm_state_size // SCAN_CHUNK
        widths = s.d_inner * (b + 4 + b) + s.conv_dim * (4 + 4 + 4) + 4 * s.mamba_num_heads
        return common + widths + states
    if kind == "-":
        return common + 2 * s.intermediate_size * b
    if kind == "E":
        each = s.num_experts_per_tok * (s.moe_intermediate_size * 2 + 2 * s.hidden_size)
        shared = 2 * s.moe_shared_expert_intermediate_size
        return common + b * (each + shared) + 8 * s.n_routed_experts
    heads = 4 * s.num_attention_heads + 2 * s.num_key_value_heads
    return common + heads * s.head_dim * b + 4 * s.num_attention_heads


def _output_bytes(s: Shape, load: TrainingLoad, gradients: int, card: float | None) -> int:
    """The unembedding and what is made of its logits: hidden states, their gradient, the fp32 gradient of the
    unembedding, and a slice of logits. Of the logits counts what they need more than what is not there yet
    while they are: one layer's values where layers are computed again, and the layers' gradients in a step of
    one microbatch.

    A loss has a slice in fp32 and its gradient in the computed type; log-probabilities have it in fp32 twice.
    """
    b = computed_bytes(load)
    tokens = load.row_tokens * load.microbatch_rows // load.context
    grad = 0 if load.lora_rank else 4 * s.vocab_size * s.hidden_size
    if load.output == "loss":
        each, on_cpu = (4 if b == 4 else 4 + b), CPU_LOGITS
    else:
        each, on_cpu = SCORED_BYTES, CPU_SCORED_LOGITS
    logits = each * _logits(s, tokens, on_cpu if card is None else card_logits(card))
    later = tokens * max(_layers_bytes(s, load)) if load.activations != "keep" else 0
    if load.microbatches == 1:
        later += max(gradients - grad, 0)
    return 2 * tokens * s.hidden_size * b + grad + max(logits - later, 0)


def _logits(s: Shape, tokens: int, at_once: int) -> int:
    """Logits of a slice: of at least one token."""
    return s.vocab_size * min(max(at_once // s.vocab_size, 1), tokens)
