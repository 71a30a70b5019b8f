"""Settings of a generation engine. Imports no vLLM."""

from typing import Literal

from pydantic import Field

from workbench.schema import Section


class EngineConfig(Section):
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
    gpu_memory_utilization: float = Field(0.6, gt=0, le=1)
    """Share of a GPU's memory for the engine (CUDA only)."""
    tensor_parallel_size: int = Field(1, ge=1)
    """GPUs one engine spans (CUDA only)."""
    logits_processors: tuple[str, ...] = ()
    """vLLM logits processors as "package.module:Class"; they see `Sampling.thinking_budget`,
    `thinking_grace` and `thinking_rule` in the request's extra_args."""
    forced: str | None = None
    """"package.module:function" from (prompt ids, reply ids, sampling, tokenizer) to a list of bool:
    which tokens a processor chose instead of the policy. Needed with logits_processors."""
    cpus: float = Field(0.0, ge=0)
    """Logical CPUs an engine's actor reserves; 0: it shares those of the stage that drives it."""
    gpus: float = Field(0.0, ge=0)
    """GPUs an engine's actor reserves."""
