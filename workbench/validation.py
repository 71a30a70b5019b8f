"""Validation while a stage trains: when, which one is the best, which checkpoint is kept, when to end early.

What is measured is the stage's: replies in reinforcement learning, losses elsewhere. Its history is part of
the training's state, so that a resume goes on exactly. Imports no torch.
"""

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Literal

from pydantic import Field

from workbench.panels import PointsPanel
from workbench.records import Estimate, from_json, to_json
from workbench.schema import Section

Measure = Callable[[], Mapping[str, Estimate]]
"""Name -> value with its interval, in every process of a training the same."""


class ValidationConfig(Section):
    """When a stage is validated, and what follows from it."""

    every: int = Field(ge=1)
    """Steps between two validations. There is one before the first step and one after the last, too."""
    keep: Literal["last", "best"] = "last"
    """Which weights become the stage's model: those of the last step, or those of the best validation, the
    one before the first step included. Its checkpoint is then kept beside the newest two."""
    patience: int | None = Field(None, ge=1)
    """Validations in a row without a better one after which the training ends; null: it never does."""


class LossValidation(ValidationConfig):
    """Validation by rows that are not trained on."""

    by: Literal["loss", "accuracy"] = "loss"
    """What says which validation is the best."""


class Validation:
    """The validations of one training. Without a configuration there are none.

    Every process of a training makes one and calls the same methods.
    """

    def __init__(
        self,
        config: ValidationConfig | None = None,
        measure: Measure | None = None,
        *,
        by: str = "loss",
        shares: Collection[str] = ("accuracy",),
        note: Callable[[dict[str, Any]], None] = lambda outputs: None,
    ) -> None:
        """by: the measured name that decides; a loss is better where it is lower. shares: names whose
        values are shares. note: is given what belongs into the manifest, after each."""
        self.config, self.by, self._shares = config, by, shares
        self._measure, self._note = measure, note
        self.history: list[dict[str, Any]] = []
        """{step, NAME: value with its interval} of each, as plain values."""

    def at(self, step: int, *, last: bool = False) -> dict[str, float]:
        """The metrics of the validation after this step; empty where none is due. last: no step follows."""
        if self.config is None or not (step % self.config.every == 0 or last):
            return {}
        if self.history and self.history[-1]["step"] == step:  # before a restart
            return {}
        assert self._measure is not None
        began = time.perf_counter()
        found = self._measure()
        took = {"validation_s": time.perf_counter() - began}
        self.history.append({"step": step, **{name: to_json(e) for name, e in found.items()}})
        self._note(self.outputs())
        return took | _metrics(found)

    @property
    def best_step(self) -> int | None:
        """The step of the best validation, the first of equals; None before one has a value."""
        known = [
            (v, line["step"]) for line in self.history if (v := line[self.by]["value"]) is not None
        ]
        if not known:
            return None
        sign = 1 if self.by == "loss" else -1
        return int(min(known, key=lambda pair: (sign * pair[0], pair[1]))[1])

    @property
    def kept_step(self) -> int | None:
        """The step whose checkpoint must stay, for its weights become the model; None: none."""
        return self.best_step if self.config is not None and self.config.keep == "best" else None

    def must_save(self, step: int) -> bool:
        """Whether a checkpoint of this step is needed: it may become the model."""
        return self.kept_step == step

    def must_return(self, step: int) -> int | None:
        """The step to whose weights a training that ended after `step` goes back; None: it stays."""
        return self.kept_step if self.kept_step != step else None

    @property
    def ended(self) -> bool:
        """Whether patience has run out."""
        best, patience = self.best_step, self.config.patience if self.config else None
        if best is None or patience is None:
            return False
        return sum(line["step"] > best for line in self.history) >= patience

    def outputs(self) -> dict[str, Any]:
        """For the manifest: what was found, which checkpoint is kept and why, and the pictures."""
        assert self.config is not None
        about = {
            **self.config.model_dump(mode="json", include={"every", "keep", "patience"}),
            "by": self.by,
            "better": "lower" if self.by == "loss" else "higher",
            "best_step": self.best_step,
            "ended_early": self.ended,
            "history": self.history,
        }
        return {"validation": about, "panels": [to_json(panel) for panel in self._panels()]}

    def _panels(self) -> list[PointsPanel]:
        if len(self.history) < 2:
            return []
        steps = [float(line["step"]) for line in self.history]
        names = [name for name in self.history[0] if name != "step"]
        return [
            PointsPanel(
                f"Validation: {name.replace('_', ' ')}",
                steps,
                [from_json(Estimate, line[name]) for line in self.history],
                "step",
                note=f"best at step {self.best_step}" if name == self.by else "",
                share=name in self._shares,
            )
            for name in names
        ]

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds of it: nothing where there is no validation."""
        return {} if self.config is None else {"validation": list(self.history)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`, which may lie among other values."""
        if self.config is not None:
            self.history = [dict(line) for line in state.get("validation", [])]


def _metrics(found: Mapping[str, Estimate]) -> dict[str, float]:
    out: dict[str, float] = {}
    for name, e in found.items():
        out |= {f"validation/{name}": e.value}
        out |= {f"validation/{name}_low": e.low, f"validation/{name}_high": e.high}
    return out
