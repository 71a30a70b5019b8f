"""DeepSpeed's checkpoints of an adapted model: what is trained alone, loaded to the last tensor or refused."""

from collections.abc import Callable, Mapping
from functools import partial, wraps
from typing import Any

from torch import Tensor, nn


def with_adapters_alone(prepare: Callable[..., Any]) -> Callable[..., Any]:
    """Accelerate's `prepare`, after which the engine that it makes leaves frozen weights out of its checkpoints.

    DeepSpeed can do so itself, and transformers asks it for PEFT's own models only.
    """

    @wraps(prepare)
    def prepared(*given: Any, **options: Any) -> Any:
        made = prepare(*given, **options)
        for one in made if isinstance(made, tuple) else (made,):
            if hasattr(one, "save_checkpoint") and hasattr(one, "load_checkpoint"):
                one.save_checkpoint = partial(one.save_checkpoint, exclude_frozen_parameters=True)
                one.load_checkpoint = partial(one.load_checkpoint, custom_load_fn=load_trained)
        return made

    return prepared


def load_trained(*, src: Mapping[str, Tensor], dst: nn.Module) -> None:
    """Raises: ValueError where the tensors are not those that are trained of the model, or its buffers."""
    frozen = {name for name, p in dst.named_parameters() if not p.requires_grad}
    expected = dst.state_dict().keys() - frozen
    if src.keys() != expected:
        raise ValueError(
            f"the checkpoint's tensors are not those of this model: {len(expected - src.keys())} missing, "
            f"{len(src.keys() - expected)} unknown"
        )
    dst.load_state_dict(src, strict=False)
