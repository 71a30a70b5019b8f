"""What bf16 alone does to a model: a forward pass that is rounded as one in bf16 is, by the same weights."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

_STEP = 2.0**-8  # of a number in bf16


@contextmanager
def rounded_to_bf16(model: Any) -> Iterator[None]:
    """Meanwhile the model's products are computed in bf16, and the stream between its parts is rounded to bf16
    wherever a copy in bf16 would: behind the embeddings and every layer, and before and behind every norm.

    No weight changes, nor is one copied. Only without gradients: the stream is rounded where it lies. Of a model
    without a list of layers less is rounded. An estimate of what an engine does, which rounds in its own places.
    """
    layers = getattr(model.base_model, "layers", None)
    norms = [module for module in model.modules() if "norm" in type(module).__name__.lower()]
    ends = [model.get_input_embeddings(), *norms]
    ends += layers if isinstance(layers, nn.ModuleList) else ()
    hooks = [part.register_forward_hook(_round_output) for part in ends]
    # What a norm reads is the stream to which a layer has just added something.
    hooks += [norm.register_forward_pre_hook(_round_input) for norm in norms]
    kind = next(model.parameters()).device.type
    try:
        # Without its cache: that would be a second copy of every trained weight.
        with torch.autocast(kind, dtype=torch.bfloat16, cache_enabled=False):
            yield
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def shaken_embeddings(model: Any) -> Iterator[None]:
    """Meanwhile what leaves the embeddings is off by up to a step of bf16, each value by its own draw, the same
    draws every time.

    Where one rounding tips a model, another tips it the other way: a pass that happened to be near says little,
    several that begin apart do.
    """

    def shake(module: nn.Module, args: Any, output: torch.Tensor) -> torch.Tensor:
        draws = torch.Generator().manual_seed(0)
        drawn = torch.rand(output.shape, generator=draws).to(output.device, output.dtype)
        return output * (1 + _STEP * (2 * drawn - 1))

    hook = model.get_input_embeddings().register_forward_hook(shake)
    try:
        yield
    finally:
        hook.remove()


def _round_input(module: nn.Module, args: Any) -> None:
    if args and isinstance(args[0], torch.Tensor):
        args[0].copy_(_rounded(args[0]))


def _round_output(module: nn.Module, args: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return (_rounded(output[0]), *output[1:])
    return _rounded(output)


def _rounded(stream: torch.Tensor) -> torch.Tensor:
    return stream.bfloat16().to(stream.dtype)
