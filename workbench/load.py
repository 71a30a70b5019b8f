"""How much a stage trains and generates, and how it is laid out: what scripts/plan.py prices."""

from dataclasses import dataclass
from typing import Literal

Strategy = Literal["none", "fsdp", "ddp", "zero2", "zero3"]
Activations = Literal["keep", "checkpoint", "offload"]


@dataclass(frozen=True)
class Beside:
    """A model of another stage that lies beside the trained one and is only read: a teacher, a reward model.

    sharded: as the trained one is; else the first process holds it whole. passes: forward passes over each
    trained token.
    Example: Beside("sft3", dtype="bfloat16")
    """

    stage: str
    dtype: Literal["float32", "bfloat16"] = "float32"
    sharded: bool = True
    passes: int = 1


@dataclass(frozen=True)
class TrainingLoad:
    """Tokens trained on, and one process's share of a step.

    document_tokens: mean length of a document in a row, which attention is quadratic in.
    fp8_ends: matrix products at each end that precision fp8 leaves in bf16.
    base: how a model frozen beside adapters is held.
    bound: the tokens are the most there can be, not the expected number.
    step_tokens: of one step of all processes; None: one microbatch each.
    checkpoint_every_steps: 0: no checkpoint. keep_checkpoints: how many lie on the disk.
    models: how many models it leaves there until the stage is done.
    published: the weights, with lora_rank the adapters alone, go to engines after every step.
    output: what is made of logits: a loss, or the log-probabilities of tokens, which hold more of them.
    Example: TrainingLoad(tokens=20_000_000_000_000, row_tokens=8192, workers=512, strategy="zero3")
    """

    tokens: int
    row_tokens: int
    microbatch_rows: int = 1
    document_tokens: int | None = None
    workers: int = 1
    gpus: float | None = 0.0
    strategy: Strategy = "none"
    context: int = 1
    replicate: int = 1
    precision: Literal["fp32", "bf16", "fp8"] = "fp32"
    fp8_ends: int = 4
    activations: Activations = "keep"
    lora_rank: int | None = None
    base: Literal["float32", "bfloat16", "nf4"] = "float32"
    bound: bool = False
    step_tokens: int | None = None
    checkpoint_every_steps: int = 0
    keep_checkpoints: int = 2
    models: int = 1
    published: bool = False
    output: Literal["loss", "logprobs"] = "loss"
    beside: tuple[Beside, ...] = ()

    @property
    def shards(self) -> int:
        """Processes that share one copy of the state."""
        return self.workers // self.replicate if self.strategy == "fsdp" else self.workers

    @property
    def microbatch_tokens(self) -> int:
        """Tokens of one forward pass of all processes."""
        return self.row_tokens * self.microbatch_rows * self.workers // self.context

    @property
    def microbatches(self) -> int:
        """Forward passes of a process and step."""
        return -(-(self.step_tokens or self.microbatch_tokens) // self.microbatch_tokens)

    @property
    def steps(self) -> int:
        """Of the whole stage."""
        return -(-self.tokens // (self.step_tokens or self.microbatch_tokens))


@dataclass(frozen=True)
class GenerationLoad:
    """Tokens generated, at most (None: not known), and what one engine holds at once.

    Example: GenerationLoad(tokens=10_000_000, context_tokens=32_768, sequences=64, engines=8)
    """

    tokens: int | None
    context_tokens: int
    sequences: int
    engines: int = 1
    gpus: float | None = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    published: bool = False
    """A training sends them its weights."""
    lora_rank: int | None = None
    """Its adapters alone, of this rank."""
    sleep: bool = False
    """Their weights wait on the host."""
    seats: int = 0
    """Sequences that one engine could hold at once, however few are asked: vLLM sizes buffers by it."""


@dataclass(frozen=True)
class ScoringLoad:
    """Forward passes over tokens, of a whole model on one card or on the CPU.

    Example: ScoringLoad(tokens=8_388_608, row_tokens=8192, gpus=1)
    """

    tokens: int
    row_tokens: int
    microbatch_rows: int = 1
    gpus: float | None = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class DataLoad:
    """What a data stage reads, computes and writes. rate: bytes a second of one core, measured; traffic:
    bytes over the network, read and written.

    Example: DataLoad("html", rows=1000, read_bytes=43_000_000, core_seconds=39.1, disk_bytes=9_000_000)
    """

    what: str
    rows: int
    read_bytes: int
    core_seconds: float | None
    disk_bytes: int = 0
    traffic_bytes: int = 0


@dataclass(frozen=True)
class AskedLoad:
    """What a model of another server is asked. bound: reply_tokens are the most there can be.

    Example: AskedLoad("phi-4", replies=1000, prompt_tokens=600_000, reply_tokens=700_000, bound=False)
    """

    model: str
    replies: int
    prompt_tokens: int
    reply_tokens: int
    bound: bool = True
    disk_bytes: int = 0
