"""An engine that leaves its card to the trainer while nothing is asked of it.

vLLM's sleep mode moves the weights to the host's memory and frees the caches. Awake again, the weights must be
those that fell asleep, to the bit, or nothing is sampled from them.
"""

from collections.abc import Iterator
from typing import Any

from engine.config import EngineConfig
from engine.sync_check import SyncError
from workbench.errors import UserError

_AT_ONCE = 1 << 24  # values of a tensor in hand at once
_WORDS = {1: "uint8", 2: "int16", 4: "int32", 8: "int64"}


class Sleeper:
    """The sleep of one vLLM engine. Where `config.sleep` is off, neither half does anything."""

    def __init__(self, engine: Any, config: EngineConfig) -> None:
        self.on = config.sleep
        self._engine, self._cached = engine, config.prefix_caching
        self._marks: dict[str, int] | None = None
        if self.on and config.tensor_parallel_size > 1:
            raise UserError(
                "engine.sleep with tensor_parallel_size > 1: its shards cannot be verified when it wakes; "
                "leave one of them out"
            )

    def rest(self) -> None:
        """Fall asleep, if it is awake."""
        if self.on and self._marks is None:
            self._marks = fingerprints(self._model())
            self._engine.sleep(level=1)

    def rise(self) -> None:
        """Wake up, if it sleeps. Raises: SyncError where a weight is another than before."""
        if self._marks is None:
            return
        marks, self._marks = self._marks, None
        self._engine.wake_up()
        if self._cached:
            self._engine.reset_prefix_cache()
        now = fingerprints(self._model())
        changed = sorted(name for name in {*marks, *now} if marks.get(name) != now.get(name))
        if changed:
            raise SyncError(
                f"the engine woke up with other weights than it fell asleep with: {changed[0]} and "
                f"{len(changed) - 1} more"
            )

    def _model(self) -> Any:
        return self._engine.apply_model(lambda model: model)[0]


def fingerprints(model: Any) -> dict[str, int]:
    """Name of each parameter -> a number of its bits and their places, worked out on its own device."""
    return {name: _fingerprint(tensor.detach()) for name, tensor in model.named_parameters()}


def _fingerprint(tensor: Any) -> int:
    import torch  # noqa: PLC0415 - configuration imports this package

    total = 0
    for number, part in enumerate(_parts(tensor)):
        words = part.view(getattr(torch, _WORDS[part.element_size()])).to(torch.int64)
        # An odd weight for each place: two values that change seats do not cancel. Sums wrap at 2^64.
        odd = torch.arange(len(words), device=part.device) * 2 + 1
        total = (total * 1_000_003 + int((words * odd).sum()) + number) % 2**64
    return total


def _parts(tensor: Any) -> Iterator[Any]:
    flat = tensor.contiguous().reshape(-1)
    for first in range(0, max(len(flat), 1), _AT_ONCE):
        yield flat[first : first + _AT_ONCE]
