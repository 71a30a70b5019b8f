"""The parts of a simulated run from runs that were measured: their metrics and rollouts. No torch."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from statistics import median
from typing import Any

from rl.simulation.engine import SimulatedEngine
from rl.simulation.parts import Asked, Decoding, Timing, TrainerGroup
from rl.simulation.rows import packed
from workbench.errors import UserError
from workbench.rundir import read_json, read_json_lines

POLL_S = 0.5
"""How often a busy engine is told something (engine.remote)."""


@dataclass(frozen=True)
class SeenStep:
    """What one step took, and the lengths of all its replies."""

    rollout_s: float
    update_s: float
    sync_s: float
    step_s: float
    wait_s: float
    asked: tuple[Asked, ...]


@dataclass(frozen=True)
class SeenRun:
    """A GRPO stage that has run. steps: all but the first, which warms up."""

    steps: tuple[SeenStep, ...]
    staleness: int
    engines: int
    seats: int
    row_tokens: int
    save_s: float

    @property
    def step_s(self) -> float:
        """Mean seconds of a step."""
        return sum(step.step_s for step in self.steps) / len(self.steps)


def read_run(folder: Path) -> SeenRun:
    """A stage's folder (RUN/STAGE). Raises: UserError where it is not a finished GRPO stage with all its
    rollouts."""
    config = _config(folder)
    replies: dict[int, list[Asked]] = {}
    for row in read_json_lines(folder / "rollouts.jsonl"):
        if "reply_tokens" not in row:
            raise UserError(f"{folder}/rollouts.jsonl has no lengths; run the stage again")
        asked = Asked(row["prompt_tokens"], row["reply_tokens"])
        replies.setdefault(row["step"], []).append(asked)
    lines = [x for x in read_json_lines(folder / "metrics.jsonl") if "rollout_s" in x]
    wanted = config["prompts_per_step"] * config["group_size"]
    whole = [x for x in lines if len(replies.get(x["step"], ())) == wanted]
    if len(whole) < 3:
        raise UserError(
            f"{folder} has {len(whole)} steps with all {wanted} replies recorded; at least 3 are needed: run it "
            f"with record_groups: {config['prompts_per_step']}"
        )
    keys = ("rollout_s", "update_s", "sync_s", "step_s", "wait_s")
    return SeenRun(
        steps=tuple(
            SeenStep(**{k: x[k] for k in keys}, asked=tuple(replies[x["step"]])) for x in whole[1:]
        ),
        staleness=config["max_staleness"],
        engines=config["engine"]["replicas"],
        seats=config["engine"]["max_num_seqs"],
        row_tokens=config["microbatch_tokens"],
        save_s=_save_s(lines, config["checkpoint_every_steps"]),
    )


def _config(folder: Path) -> dict[str, Any]:
    recipe = folder.parent / "recipe.json"
    if not recipe.is_file() or not (folder / "metrics.jsonl").is_file():
        raise UserError(f"{folder} is not a stage that has run; give RUN/STAGE of runs_dir")
    config: dict[str, Any] = read_json(recipe)["stages"][folder.name]
    if config["kind"] != "grpo":
        raise UserError(
            f"{folder} is of kind {config['kind']!r}; a simulation is fitted to kind 'grpo'"
        )
    return config


def _save_s(lines: Sequence[dict[str, Any]], every: int) -> float:
    """What a checkpoint adds between two lines, beyond the step's own time."""
    gaps = [
        after["wall_s"] - before["wall_s"] - after["step_s"]
        for before, after in pairwise(lines)
        if before["step"] % every == 0
    ]
    return max(median(gaps), 0.0) if gaps else 0.0


def fit(runs: Sequence[SeenRun]) -> Timing:
    """One set of parts for all the runs.

    Of an engine: an iteration, and a sequence in it. Of the trainer: a token, and a step. Runs in which
    sampling and training overlap say nothing of either alone, and are refused.
    """
    if any(run.staleness for run in runs):
        raise UserError(
            "fit to runs with max_staleness: 0; in others sampling and training overlap"
        )
    if any(run.engines != 1 for run in runs):
        raise UserError("fit to runs with one engine (engine.replicas: 1)")
    steps = [(run, step) for run in runs for step in run.steps]
    engine = least_squares(
        [[float(iterations(s.asked, r.seats)), float(_sampled(s))] for r, s in steps],
        [s.rollout_s for _, s in steps],
    )
    trainer = least_squares(
        [[1.0, float(sum(packed(s.asked, r.row_tokens)))] for r, s in steps],
        [s.update_s for _, s in steps],
    )
    rest = [s.step_s - s.wait_s - s.update_s - s.sync_s for _, s in steps]
    return Timing(
        decoding=Decoding(step_s=engine[0], sequence_s=engine[1]),
        training=TrainerGroup(token_s=trainer[1], fixed_s=trainer[0]),
        sync_s=median(s.sync_s for _, s in steps),
        other_s=max(median(rest), 0.0),
        save_s=median(run.save_s for run in runs),
        poll_s=POLL_S,
    )


def _sampled(step: SeenStep) -> int:
    return sum(asked.reply for asked in step.asked)


def iterations(asked: Sequence[Asked], seats: int) -> int:
    """How often an engine of so many seats has to run for these replies.

    >>> iterations([Asked(5, 10), Asked(5, 4), Asked(5, 8)], 2)
    12
    """
    engine = SimulatedEngine(Decoding(step_s=1.0), seats)
    engine.submit(0.0, enumerate(asked))
    while (when := engine.next_end()) is not None:
        engine.ended(when)
    return round(engine.iterations)


def least_squares(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """The coefficients, none below 0, that come closest to `values` in squares."""
    width = len(rows[0])
    best, least = [0.0] * width, float("inf")
    for size in range(1, width + 1):
        for columns in combinations(range(width), size):
            found = _solved([[row[c] for c in columns] for row in rows], values)
            if found is None or min(found) < 0:
                continue
            whole = [0.0] * width
            for column, value in zip(columns, found, strict=True):
                whole[column] = value
            error = sum(
                (sum(a * b for a, b in zip(row, whole, strict=True)) - value) ** 2
                for row, value in zip(rows, values, strict=True)
            )
            if error < least:
                best, least = whole, error
    return best


def _solved(rows: Sequence[Sequence[float]], values: Sequence[float]) -> list[float] | None:
    """The normal equations by elimination; None where columns depend on each other."""
    width = len(rows[0])
    scale = [max(max(abs(row[c]) for row in rows), 1e-300) for c in range(width)]
    table = [
        [sum(row[i] * row[j] for row in rows) / scale[i] / scale[j] for j in range(width)]
        + [sum(row[i] * v for row, v in zip(rows, values, strict=True)) / scale[i]]
        for i in range(width)
    ]
    for i in range(width):
        pivot = max(range(i, width), key=lambda k: abs(table[k][i]))
        if abs(table[pivot][i]) < 1e-9 * len(rows):
            return None
        table[i], table[pivot] = table[pivot], table[i]
        for k in range(width):
            if k != i:
                factor = table[k][i] / table[i][i]
                table[k] = [a - factor * b for a, b in zip(table[k], table[i], strict=True)]
    return [table[i][width] / table[i][i] / scale[i] for i in range(width)]
