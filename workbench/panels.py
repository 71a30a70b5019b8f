"""Pictures that a stage kind has in the report, declared beside what fills them. Imports no torch."""

from dataclasses import dataclass, field
from typing import Literal

from workbench.records import Estimate


@dataclass(frozen=True)
class MetricPanel:
    """A metric of metrics.jsonl by step or tokens. note: a line under the title. log: a logarithmic axis.

    That of `loss` stands among the losses of all stages, and has its title there.
    """

    metric: str
    title: str
    note: str = ""
    colour: Literal["main", "second"] = "main"
    log: bool = False
    x: Literal["step", "tokens"] = "step"


@dataclass(frozen=True)
class PointsPanel:
    """Values that a stage measured itself. It writes them into its manifest, under `panels`.

    x: numbers, or the places 0, 1, ... of x_names. share: values are shares, written in percent.
    whole: the axis goes from 0 to 1.
    """

    title: str
    x: list[float]
    values: list[Estimate]
    x_label: str = ""
    x_names: list[str] = field(default_factory=list)
    note: str = ""
    share: bool = True
    whole: bool = False
