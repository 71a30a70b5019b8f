"""What vLLM does in Python for every token of every request, done only where it changes something."""

from collections.abc import Callable
from typing import Any

import torch


def lighten(engine: Any) -> None:
    """An engine that lives in this process, on a CPU, from here on."""
    core = engine.engine_core.engine_core
    if not engine.vllm_config.cache_config.enable_prefix_caching:
        keep_blocks(core.scheduler.kv_cache_manager)
    runner = core.model_executor.driver_worker.worker.model_runner
    sampler = runner.sampler.topk_topp_sampler
    sampler.forward = seeded(sampler)


def keep_blocks(manager: Any) -> None:
    """A request whose blocks have room for its next token asks for none: a block is 128 tokens or more."""
    allocate, groups = manager.allocate_slots, manager.coordinator.single_type_managers

    def allocate_slots(request: Any, num_new_tokens: int, **options: Any) -> Any:
        name, needed = request.request_id, request.num_computed_tokens + num_new_tokens
        if not any(options.values()) and all(
            len(group.req_to_blocks.get(name, ())) * group.block_size >= needed for group in groups
        ):
            return manager.empty_kv_cache_blocks
        return allocate(request, num_new_tokens, **options)

    manager.allocate_slots = allocate_slots


def seeded(sampler: Any) -> Callable[..., tuple[torch.Tensor, torch.Tensor | None]]:
    """Its sampling, for a batch in which every request has a seed: the same draws, a third of the calls."""
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p  # noqa: PLC0415 - heavy

    theirs, drawn = sampler.forward, torch.empty(1, dtype=torch.long)

    def forward(
        logits: torch.Tensor,
        generators: dict[int, torch.Generator],
        k: torch.Tensor | None,
        p: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        plain = sampler.logprobs_mode == "processed_logprobs" and not sampler.use_fp64_gumbel
        if not plain or len(generators) != len(logits):
            return theirs(logits, generators, k, p)  # type: ignore[no-any-return]
        logits = apply_top_k_top_p(logits, k, p).float()
        seeds = [
            drawn.random_(0, 2**31, generator=generators[row]).item() for row in range(len(logits))
        ]
        chosen = torch.ops._C.fused_gumbel_argmax(logits, torch.tensor(seeds))
        return chosen, logits.log_softmax(-1)

    return forward
