"""What a stage leaves in its manifest, as classes: it is written through them and read back through them.

A kind names its own class in its `Kind`; every field that it gives has to be one of it. The manifest keeps
what was given, as JSON; `read_outputs` gives it back. Imports no torch.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from workbench import registry
from workbench.errors import UserError
from workbench.panels import PointsPanel
from workbench.records import (
    Difference,
    Estimate,
    ModelDifference,
    first_problem_of,
    from_json,
)


def _difference(found: Any) -> Any:
    """Of a model against another where it names them, as searches and ablations do."""
    if isinstance(found, Difference):
        return found
    return from_json(ModelDifference if "model" in found else Difference, found)


def _panel(found: Any) -> Any:
    return found if isinstance(found, PointsPanel) else from_json(PointsPanel, found)


class Account(BaseModel):
    """A part of a result. Unknown keys are errors, so that a renamed one is noticed."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class PhaseRange(Account):
    """The tokens during which a phase of the blend was drawn, in the picture of the loss."""

    name: str
    start_token: int
    end_token: int


class ForkOrigin(Account):
    """The checkpoint that a fork began at. optimizer: whether with its optimizer's state."""

    run: str
    stage: str
    step: int
    optimizer: bool
    sha256: str = ""
    config_digest: str = ""
    git: dict[str, Any] = {}


class Validated(Account):
    """The validations of a training. by: the measure that says which one is the best."""

    by: str
    better: Literal["lower", "higher"]
    best_step: int | None
    keep: Literal["last", "best"]
    ended_early: bool
    history: list[dict[str, Any]]
    """{step, NAME: value with its interval} of each, in their order."""
    every: int = 1
    patience: int | None = None

    @property
    def steps(self) -> list[int]:
        """Steps after which there was one."""
        return [int(line["step"]) for line in self.history]

    def at(self, step: int) -> Estimate | None:
        """The value that decides, at a step; None where there was no validation."""
        lines = [line for line in self.history if line["step"] == step]
        return from_json(Estimate, lines[0][self.by]) if lines else None


class DataAccount(Account):
    """What a stage says of the data that it read or made: each package has classes of its own."""


class StageResult(BaseModel):
    """What the report reads of stages of every kind. Kinds add fields of their own."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    warnings: list[str] = []
    differences: list[Annotated[ModelDifference | Difference, BeforeValidator(_difference)]] = []
    """Its own measures before and after it."""
    panels: list[Annotated[PointsPanel, BeforeValidator(_panel)]] = []
    """Pictures of values that it measured itself."""
    parameters: int | None = None
    """Of the model that it made."""
    tokens: int | None = None
    """Trained on, where no metric counts them."""
    phases: list[PhaseRange] = []
    validation: Validated | None = None
    forked_from: ForkOrigin | None = None
    data: DataAccount | None = None


class OwnResult(StageResult):
    """Of a kind that declares no class: whatever it gives is kept."""

    model_config = ConfigDict(extra="allow")

    data: Any = None


def result_class(kind: str) -> type[StageResult]:
    """The class of a kind's results. Raises: UserError where there is no such kind."""
    declared = registry.kind(kind).result
    return OwnResult if declared is None else registry.resolve(declared)  # type: ignore[no-any-return]


def check_outputs(kind: str, found: Mapping[str, Any]) -> None:
    """Raise TypeError where a stage gives what its kind does not declare, or a value of another type."""
    declared = result_class(kind)
    try:
        declared.model_validate(dict(found))
    except ValidationError as error:
        raise TypeError(
            f"kind {kind!r} leaves {first_problem_of(error)}: not as {declared.__name__} has it"
        ) from None


def read_outputs(kind: str, outputs: Mapping[str, Any]) -> tuple[StageResult, list[str]]:
    """A manifest's outputs, and what of them could not be read: a line each, the rest is read.

    Where no key can be left out, all are read as those of a kind that declares nothing.
    """
    try:
        declared = result_class(kind)
    except UserError:  # a plug-in's kind that is not installed here
        declared = OwnResult
    kept, problems = dict(outputs), list[str]()
    while True:
        try:
            return declared.model_validate(kept), problems
        except ValidationError as error:
            wrong: dict[str, Any] = {}
            for problem in error.errors():
                wrong.setdefault(str(problem["loc"][0]) if problem["loc"] else "", problem)
            nowhere = [key for key in wrong if key not in kept]  # a missing one, or all together
            for key in nowhere[:1] or wrong:
                place = ".".join(map(str, wrong[key]["loc"])) or "the whole"
                told = wrong[key]["msg"]
                problems.append(f"{place} is not as {declared.__name__} has it ({told})")
            if nowhere:  # no key to leave out
                declared = OwnResult
            else:
                kept = {key: found for key, found in kept.items() if key not in wrong}
