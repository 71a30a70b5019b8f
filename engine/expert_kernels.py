"""Layers of experts of vLLM on a CPU, which a reload of weights leaves unpacked.

vLLM 0.32 packs the experts' matrices for the CPU's kernel when a layer's kernel is made. A reload finds that
there is a kernel already, puts the new matrices into its place as they arrived, and the kernel reads them as
if they were packed: replies are of no policy at all, and nothing says so.
"""

from typing import Any


def forget_expert_kernels(model: Any) -> None:
    """Before a reload: have it make the kernels of all layers of experts anew, which packs their matrices."""
    for module in model.modules():
        weight = getattr(module, "w13_weight", None)
        method: Any = getattr(module, "quant_method", None)
        if weight is not None and weight.device.type == "cpu" and hasattr(method, "moe_kernel"):
            method.moe_kernel = None
