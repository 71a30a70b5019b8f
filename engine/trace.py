"""What each decoder layer of a live vLLM model sees and gives, while it makes one sample."""

from types import TracebackType
from typing import Any, Self

import torch


class Recorder:
    """Records the residual stream around every decoder layer, inside a `with` block."""

    def __init__(self, model: Any) -> None:
        self._layers = list(model.model.layers)
        self._rows: list[list[torch.Tensor]] = [[] for _ in range(len(self._layers) + 1)]
        self._hooks: list[Any] = []

    def __enter__(self) -> Self:
        first = self._layers[0]
        self._hooks.append(first.register_forward_pre_hook(self._before, with_kwargs=True))
        for number, layer in enumerate(self._layers):
            self._hooks.append(layer.register_forward_hook(self._after(number + 1)))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for hook in self._hooks:
            hook.remove()

    def streams(self, num_tokens: int) -> torch.Tensor:
        """[L + 1, T, H] in fp32. Raises: RuntimeError where the engine ran other tokens as well, or layers
        that call no hooks."""
        sizes = sorted({sum(len(part) for part in parts) for parts in self._rows})
        if sizes != [num_tokens]:
            raise RuntimeError(f"the engine ran {sizes} tokens for a trace of {num_tokens}")
        return torch.stack([torch.cat(parts) for parts in self._rows])

    def _before(self, module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[1]
        self._keep(0, hidden, None)

    def _after(self, place: int) -> Any:
        return lambda module, args, output: self._keep(place, *output)

    def _keep(self, place: int, hidden: torch.Tensor, residual: torch.Tensor | None) -> None:
        # vLLM adds a layer's output to the stream only inside the next norm.
        stream = hidden.float() if residual is None else hidden.float() + residual.float()
        self._rows[place].append(stream.detach().cpu().clone())
