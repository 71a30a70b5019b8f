"""Trainer and engine on one card, one after the other: each has the card's memory while the other has left it.

The engine leaves by falling asleep (engine.sleep); the trainer moves its weights, gradients and moments to the
host's memory, bit for bit, and gives torch's cached memory back to the card before the engine wakes.
"""

from collections.abc import Callable
from typing import Any

import torch

from rl.weight_sync import carried


class Turns:
    """Whose turn it is. It begins with the trainer's. Where `on` is off, nothing ever moves."""

    def __init__(self, *, on: bool, move: Callable[[bool], None], rest: Callable[[], None]) -> None:
        """move(away): the trainer to the host's memory, or back to its card. rest: the engine falls asleep."""
        self.on, self._move, self._rest = on, move, rest
        self._away = False

    def to_engine(self) -> None:
        """The trainer leaves the card, so that the engine may start or wake."""
        if self.on and not self._away:
            self._move(True)
            self._away = True

    def to_trainer(self) -> None:
        """The engine sleeps, and the trainer is back on the card."""
        if self.on and self._away:
            self._rest()
            self._move(False)
            self._away = False


class Mover:
    """Moves a model, models beside it and an optimizer's state between their card and the host."""

    def __init__(
        self,
        models: list[Any],
        optimizer: Any,
        put: Callable[[torch.Tensor, torch.device], torch.Tensor] = torch.Tensor.to,
    ) -> None:
        """put: a copy of a tensor on a device."""
        self._models, self._optimizer, self._put = models, optimizer, put
        self.card = next(models[0].parameters()).device
        self._moments: list[torch.Tensor] = []

    def __call__(self, away: bool) -> None:
        """To the host, or back. What is known of a frozen base's bits stays known."""
        device = torch.device("cpu") if away else self.card
        if away:
            self._moments = [v for v in self._state() if v.device == self.card]
        with carried(self._models[0]):
            for model in self._models:
                # As `to` does: the parameters stay those that the optimizer has.
                model._apply(lambda tensor: self._put(tensor, device))
        for tensor in self._moments:
            tensor.data = self._put(tensor.data, device)
        if away and self.card.type == "cuda":
            torch.cuda.empty_cache()

    def _state(self) -> list[torch.Tensor]:
        kept = self._optimizer.state.values()
        return [v for state in kept for v in state.values() if isinstance(v, torch.Tensor)]


def rest(engine: Any) -> None:
    """Have an engine fall asleep that can."""
    asleep = getattr(engine, "rest", None)
    if asleep is not None:
        asleep()
