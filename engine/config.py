"""Settings of a generation engine. Imports no vLLM."""

from typing import Any, Literal, Self

from pydantic import Field, field_validator

from workbench.load import GenerationLoad
from workbench.placement import Reserving, Seat, engine_share

OWN_OPTIONS = frozenset({
    "model", "tokenizer", "dtype", "max_model_len", "max_num_seqs", "max_num_batched_tokens",
    "enable_prefix_caching", "gpu_memory_utilization", "tensor_parallel_size", "logits_processors",
    "logprobs_mode", "skip_tokenizer_init", "seed", "enable_sleep_mode", "kv_cache_memory_bytes",
    "mamba_ssm_cache_dtype", "disable_log_stats", "max_logprobs",
})  # fmt: skip
"""Options of vLLM that have a key of their own here, or on which seeds, log-probabilities and proofs rest."""


class EngineConfig(Reserving):
    """How vLLM is run; the defaults fit a laptop's CPU."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Weights and activations. fp32 agrees with the trainer to 2e-6, bf16 to 4e-3."""
    max_model_len: int = Field(1024, ge=16)
    """Longest prompt and reply together, in tokens."""
    max_num_seqs: int = Field(256, ge=1)
    """Sequences decoded at once, in each replica."""
    max_num_batched_tokens: int | None = Field(None, ge=16)
    """Most tokens of one forward pass; null: the larger of 4,096 and max_model_len."""
    replicas: int = Field(1, ge=1)
    """Engines that share the requests, each an actor of its own (with Ray; else one)."""
    threads: int = Field(1, ge=1)
    """Compute threads of a replica (CPU only). Two replicas of one thread beat one of two."""
    prefix_caching: bool = False
    """Keep the attention states of prompts, so that requests which begin alike (the samples of a group,
    the turns of an episode, a list of tools) share them, by whole blocks of 128 tokens on a CPU.
    Emptied at every weight sync. Not for hybrids on a CPU."""
    kv_cache_mb: int = Field(512, ge=16)
    """Memory for attention and Mamba states of a replica, in MB (CPU only)."""
    gpu_memory_utilization: float | None = Field(None, gt=0, le=1)
    """Share of each GPU's memory for the engine (CUDA only); null: its share of the GPU, at most 0.9."""
    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs one engine spans (CUDA only)."""
    sleep: bool = False
    """Leave the card's memory to the trainer while nothing is asked (vLLM's sleep mode, CUDA only): weights
    wait in the host's memory, and are compared to the bit when the engine wakes. In `grpo` on one card with
    max_staleness 0 the trainer leaves it too while the engine is at work: each then has 85% of the memory."""
    vllm: dict[str, Any] = Field(default_factory=dict)
    """Any further option of vLLM's EngineArgs, e.g. {enforce_eager: true, kv_cache_dtype: fp8}; those that
    have a key above, or that proofs rest on, are refused."""
    logits_processors: tuple[str, ...] = ()
    """vLLM logits processors as "package.module:Class"; they see `Sampling.thinking_budget`,
    `thinking_grace` and `thinking_rule` in the request's extra_args."""
    forced: str | None = None
    """"package.module:function" from (prompt ids, reply ids, sampling, tokenizer) to a list of bool:
    which tokens a processor chose instead of the policy. Needed with logits_processors."""
    cpus: float = Field(0.0, ge=0)
    """Logical CPUs an engine's actor reserves; 0: it shares those of the stage that drives it."""
    gpus: float | None = Field(None, ge=0)
    """GPUs that an engine reserves, sees and uses; 0: none. null: where a card is there, the engines share
    it with the stage that drives them (docs/gpu.md)."""

    @field_validator("vllm")
    @classmethod
    def _not_ours(cls, options: dict[str, Any]) -> dict[str, Any]:
        if taken := sorted(OWN_OPTIONS & options.keys()):
            raise ValueError(
                f"{taken[0]!r} is set by Anneal itself: use the engine's key of that meaning, or leave it out"
            )
        return options

    def grown(self, longest: int, *, context: int, at_once: int = 1) -> Self:
        """The same engines for sequences of `longest` tokens, within the model's `context`, so many at once."""
        # In steps, so that a few tokens more do not make a warm engine useless.
        wanted = min(max(self.max_model_len, -(-longest // 256) * 256), context)
        batched = self.max_num_batched_tokens
        return self.model_copy(
            update={
                "max_model_len": wanted,
                "max_num_seqs": max(self.max_num_seqs, at_once),
                "max_num_batched_tokens": batched and max(batched, wanted),
            }
        )

    def seat(self) -> Seat:
        """What the replicas reserve."""
        least = self.tensor_parallel_size if self.tensor_parallel_size > 1 else 0
        return Seat(
            "engine", self.replicas, self.cpus, self.gpus, least, self.sleep,
            self.gpu_memory_utilization,
        )  # fmt: skip

    def load(self, tokens: int | None, asked: int | None = None) -> GenerationLoad:
        """For the plan: so many tokens generated. asked: requests at once, where they are known."""
        at_once = self.max_num_seqs if asked is None else min(self.max_num_seqs, asked)
        return GenerationLoad(
            tokens=tokens,
            context_tokens=self.max_model_len,
            sequences=at_once,
            engines=self.replicas,
            gpus=self.gpus,
            dtype=self.dtype,
            seats=self.max_num_seqs,
        )

    def with_gpus(self, each: float) -> Self:
        """The same engines on that much of a card each."""
        return self.model_copy(update={"gpus": each})

    def with_memory(self, share: float) -> Self:
        """The same engines on that share of a card's memory each."""
        return self.model_copy(update={"gpu_memory_utilization": share})

    @property
    def memory_share(self) -> float:
        """Share of each GPU's memory that vLLM takes."""
        return engine_share(self.seat())
