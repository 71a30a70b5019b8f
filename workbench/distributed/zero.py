"""DeepSpeed's configuration from ours. Imports no torch and no DeepSpeed."""

from typing import Any

from workbench.load import Strategy

GATHER_PARAMETERS = 1_000_000_000  # ZeRO-3 holds at most this many gathered parameters
BUCKET_VALUES = 500_000_000  # gradients in flight


def deepspeed_config(
    strategy: Strategy, *, precision: str, grad_clip: float, microbatch_rows: int, accumulate: int
) -> dict[str, Any]:
    """ZeRO-2 or ZeRO-3 with an optimizer of torch's, which needs nothing compiled.

    bf16: bf16 weights and gradients, fp32 master weights and moments. fp32: everything in fp32.
    """
    return {
        "train_micro_batch_size_per_gpu": microbatch_rows,
        "gradient_accumulation_steps": accumulate,
        "gradient_clipping": grad_clip,
        "bf16": {"enabled": precision == "bf16"},
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": {"zero2": 2, "zero3": 3}[strategy],
            "reduce_bucket_size": BUCKET_VALUES,
            "allgather_bucket_size": BUCKET_VALUES,
            "stage3_max_live_parameters": GATHER_PARAMETERS,
            "stage3_max_reuse_distance": GATHER_PARAMETERS,
            "stage3_gather_16bit_weights_on_model_save": True,
        },
    }
