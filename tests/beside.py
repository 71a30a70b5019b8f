"""Two runs of one recipe beside each other: how far apart their losses, weights and results are.

python -m tests.beside runs/ONE runs/OTHER
"""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from workbench.rundir import read_json
from workbench.tracking import read_metrics

_LOSSES = ("loss", "reward")  # of GRPO the loss is a difference of almost equal sums


@dataclass
class Beside:
    """What one stage came to in both runs.

    loss: largest relative difference of a step's loss (of GRPO: difference of its mean reward). weights: of a
    tensor of the final model, relative to its norm. results: name -> value in either run.
    """

    stage: str
    steps: int
    loss: float | None
    weights: float
    seconds: tuple[float, float]
    results: dict[str, tuple[float | None, float | None]] = field(default_factory=dict)


def beside(one: Path, other: Path) -> list[Beside]:
    """Each stage with a model, in the order in which they ended in the first run."""
    ended = sorted(one.glob("*/model"), key=lambda folder: folder.stat().st_mtime_ns)
    return [_stage(folder.parent.name, one, other) for folder in ended]


def table(found: list[Beside]) -> str:
    """Markdown."""
    lines = [
        "| stage | steps | loss, furthest | weights, furthest | results that differ | seconds |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for stage in found:
        loss = "" if stage.loss is None else f"{stage.loss:.1e}"
        differ = [f"{name}: {a} and {b}" for name, (a, b) in stage.results.items() if a != b]
        told = "; ".join(differ) or f"none of {len(stage.results)}"
        seconds = " and ".join(f"{s:.0f}" for s in stage.seconds)
        lines.append(
            f"| {stage.stage} | {stage.steps or ''} | {loss} | {stage.weights:.1e} | {told} | {seconds} |"
        )
    return "\n".join(lines)


def _stage(stage: str, one: Path, other: Path) -> Beside:
    ours, theirs = (_losses(run / stage / "metrics.jsonl") for run in (one, other))
    assert ours.keys() == theirs.keys(), (stage, list(ours), list(theirs))
    apart = [abs(a - theirs[n]) / max(abs(theirs[n]), 1e-9) for n, a in ours.items()]
    wall = [float(read_json(run / stage / "manifest.json")["wall_s"]) for run in (one, other)]
    return Beside(
        stage, len(ours), max(apart, default=None), _apart(one / stage, other / stage),
        (wall[0], wall[1]), _both(dict(_results(one, stage)), dict(_results(other, stage))),
    )  # fmt: skip


def _losses(path: Path) -> dict[int, float]:
    lines = read_metrics(path) if path.is_file() else []
    found = dict[int, float]()
    for line in lines:
        name = next((n for n in reversed(_LOSSES) if n in line), None)
        if name is not None:
            assert line["step"] not in found, f"{path}: step {line['step']} stands twice"
            found[line["step"]] = float(line[name])
    return found


def _apart(one: Path, other: Path) -> float:
    """Of the tensor that is furthest away."""
    ours, theirs = (_weights(stage / "model") for stage in (one, other))
    assert ours.keys() == theirs.keys()
    norms = {n: float((ours[n].double() - t.double()).norm()) for n, t in theirs.items()}
    return max(n / max(float(theirs[name].double().norm()), 1e-12) for name, n in norms.items())


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    found = dict[str, torch.Tensor]()
    for path in folder.glob("model*.safetensors"):
        found |= load_file(path)
    return found


def _results(run: Path, stage: str) -> Iterator[tuple[str, float | None]]:
    """Benchmarks of its model, and what its manifest says it changed."""
    for path in sorted((run / "evals" / stage).glob("*/results.json")):
        for name, found in read_json(path)["metrics"].items():
            yield f"{path.parent.name} {name}", found["value"]
    outputs: dict[str, Any] = read_json(run / stage / "manifest.json")["outputs"]
    for number, change in enumerate(outputs.get("differences", [])):
        for when in ("before", "after"):
            yield f"held out {number + 1} {when}", change[when]["value"]


def _both(ours: dict[str, Any], theirs: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {name: (ours.get(name), theirs.get(name)) for name in [*ours, *(theirs.keys() - ours)]}


if __name__ == "__main__":
    print(table(beside(Path(sys.argv[1]), Path(sys.argv[2]))))
