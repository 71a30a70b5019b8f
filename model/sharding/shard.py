"""FSDP2 around a model: blocks, then the root; sums of gradients, activations, functions inside.

Every process must call every forward pass, backward pass and gather: they are collectives.
"""

import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import nn
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from model.fp8.gather import gather_in_fp8
from model.fp8.linear import BlockLinear
from workbench.distributed.mesh import Mesh
from workbench.errors import UserError
from workbench.load import Activations

T = TypeVar("T")
_INSIDE, _HALF = "_anneal_inside", "_anneal_half"
# Matrices travel as bf16, which is what autocast would make of them; scales, decays, convolutions and
# the residual stream stay in fp32 (a bf16 A_log is another time scale). Gradients are added in fp32.
_MATRICES = MixedPrecisionPolicy(
    param_dtype=torch.bfloat16, reduce_dtype=torch.float32, cast_forward_inputs=False
)


def shard(model: PreTrainedModel, mesh: Mesh, precision: str = "fp32") -> PreTrainedModel:
    """Shard the parameters of `model` over `mesh.params`, in place; `precision`: fp32 or bf16.

    Weights of layers that compute in FP8 travel in FP8 (model.fp8.gather), whatever it is.

    Gradients are summed over all processes, not averaged: a loss is divided by the whole step's count,
    so that its gradients only have to be added.
    """
    for block in blocks(model):
        matrices: list[nn.Module] = [m for m in block.modules() if isinstance(m, nn.Linear)]
        in_fp8 = [m for m in matrices if isinstance(m, BlockLinear)]
        if in_fp8:
            fully_shard(in_fp8, mesh=mesh.params)
            gather_in_fp8(in_fp8[0])
        rest = [m for m in matrices if not isinstance(m, BlockLinear)]
        if precision == "bf16" and rest:
            fully_shard(rest, mesh=mesh.params, mp_policy=_MATRICES)
        fully_shard(block, mesh=mesh.params)
    fully_shard(model, mesh=mesh.params)
    setattr(model, _INSIDE, _call.__get__(model))
    setattr(model, _HALF, precision == "bf16")
    register_fsdp_forward_method(model, _INSIDE)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # gloo knows no product before the sum, which a factor alone would ask for.
            module.set_force_sum_reduction_for_comms(True)
            module.set_gradient_divide_factor(1.0)
    return model


def blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The layers that a model is a stack of. Raises: UserError where it is none."""
    layers = getattr(model.base_model, "layers", None)
    if not isinstance(layers, nn.ModuleList):
        raise UserError(
            f"{type(model).__name__} has no list of layers, so it cannot be sharded; train it in one "
            "process (distributed.strategy: none)"
        )
    return list(layers)


def inside(model: PreTrainedModel, work: Callable[[PreTrainedModel], T]) -> T:
    """work(model) as a forward pass of the whole model: embeddings and output layer are whole in it.

    work returns tensors, alone or in a tuple. Of a model that is not sharded, and inside of another such call,
    it is a plain call.
    """
    if not isinstance(model, FSDPModule) or model in _passes():
        return work(model)
    kind = next(model.parameters()).device.type
    _passes().append(model)
    # Matrices that travel as bf16 meet a stream in fp32: proofs and figures need autocast as losses do.
    try:
        with (
            torch.autocast(kind, dtype=torch.bfloat16, enabled=True)
            if getattr(model, _HALF)
            else nullcontext()
        ):
            out: T = getattr(model, _INSIDE)(work)
    finally:
        _passes().pop()
    if not torch.is_grad_enabled():
        model.reshard()  # the root stays whole for a backward pass that will not come
    return out


_here = threading.local()


def _passes() -> list[Any]:
    """Models that this thread is inside of: one of them is whole already."""
    if not hasattr(_here, "models"):
        _here.models = []
    found: list[Any] = _here.models
    return found


def _call(model: PreTrainedModel, work: Callable[[PreTrainedModel], T]) -> T:
    return work(model)


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor that may be sharded. Every process must call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def set_activations(model: PreTrainedModel, how: Activations) -> None:
    """What a layer keeps for its backward pass: all, its input alone, or that in the CPU's memory.

    Raises: UserError where the model's layers cannot be computed again.
    """
    if how == "keep":
        return
    if not model.supports_gradient_checkpointing:
        raise UserError(
            f"{type(model).__name__} cannot compute its layers again; set activations: keep"
        )
    model._set_gradient_checkpointing(True, _again if how == "checkpoint" else _from_host)


def _again(layer: Callable[..., Any], hidden: torch.Tensor, *rest: Any) -> Any:
    # No generator's state is kept: these models draw no random numbers.
    return checkpoint(layer, hidden, *rest, use_reentrant=False, preserve_rng_state=False)


def _from_host(layer: Callable[..., Any], hidden: torch.Tensor, *rest: Any) -> Any:
    device = hidden.device

    def run(held: torch.Tensor, *more: Any) -> Any:
        return layer(held.to(device, non_blocking=True), *more)

    return _again(run, hidden.to("cpu"), *rest)
