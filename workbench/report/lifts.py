"""What reinforcement and preference learning bought, each stage on its own held-out items.

Read from the manifests' outputs: `held_out` (GRPO's reward, DPO's success), `held_out_checker` (what
the checker says where a model or a judge rewards), `distance` (distillation), `pair_accuracy`
(reward models) and `lift_against` (merges).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from workbench.report.read import RunFacts, StageFacts
from workbench.report.svg import percent, points
from workbench.statistics import Estimate

_REWARDS = {
    "checker": "held-out reward",
    "model": "reward model's score",
    "judge": "judge's win rate",
}


@dataclass(frozen=True)
class Lift:
    """One measure of one stage, before and after. n: questions (pairs, for a reward model).

    share: written in percent and points; else as the number it is (a reward model's score has no
    scale). paired: the same questions both times.

    Example: Lift("dpo", "held-out success", Estimate(...), Estimate(...), Estimate(...), 200, True)
    """

    stage: str
    what: str
    before: Estimate
    after: Estimate
    gain: Estimate | None
    n: int
    share: bool
    note: str = ""

    def level(self, estimate: Estimate) -> str:
        """A level and its interval."""
        if self.share:
            return f"{percent(estimate.value)} ({100 * estimate.low:.0f}–{100 * estimate.high:.0f})"
        return f"{estimate.value:.3f} ({estimate.low:.3f} to {estimate.high:.3f})"

    def change(self) -> str:
        """The lift and its interval, or nothing where none was measured."""
        if self.gain is None:
            return "–"
        write: Callable[[float], str] = points if self.share else "{:+.3f}".format
        return f"{write(self.gain.value)} ({write(self.gain.low)} to {write(self.gain.high)})"

    @property
    def mark(self) -> str:
        """up or down where the interval is clear of 0, else nothing."""
        if self.gain is None or not self.gain.clear_of_zero:
            return ""
        return "up" if self.gain.value > 0 else "down"

    def sentence(self) -> str:
        """For the head of the report and the terminal."""
        shown = percent if self.share else "{:.3f}".format
        head = f"{self.stage}: {self.what} {shown(self.before.value)} → {shown(self.after.value)}"
        if self.gain is None:
            return f"{head} (95% interval {self.level(self.after)}, n = {self.n}{self.note})."
        unit = " points" if self.share else ""
        write: Callable[[float], str] = points if self.share else "{:+.3f}".format
        low, high = write(self.gain.low), write(self.gain.high)
        return (
            f"{head}, {write(self.gain.value)}{unit} (95% interval {low} to {high}, n = {self.n}"
            f"{self.note})."
        )


def stage_lifts(facts: RunFacts) -> list[Lift]:
    """The lifts of every stage that measured one, in the recipe's order."""
    return [lift for stage in facts.stages.values() for lift in _of(stage)]


def _of(stage: StageFacts) -> Iterator[Lift]:
    outputs = stage.outputs
    if stage.kind == "dpo" and "held_out" in outputs:
        yield _held_out(stage.name, "held-out success", outputs["held_out"], share=True)
    elif "held_out" in outputs:
        reward = stage.config.get("reward") or {}
        kind = str(reward.get("kind", "checker"))
        what = _REWARDS.get(kind, "held-out reward")
        parts = [str(part.get("kind")) for part in (reward.get("parts") or {}).values()]
        # A reward model's score has no scale, nor has a mean with one in it.
        share = "model" not in (kind, *parts)
        yield _held_out(stage.name, what, outputs["held_out"], share=share)
    if "held_out_checker" in outputs:
        what = "checker on the same replies"
        yield _held_out(stage.name, what, outputs["held_out_checker"], share=True)
    if "distance" in outputs:
        found = outputs["distance"]
        what = f"held-out tokens whose likeliest is that of {stage.config.get('teacher')}"
        yield _held_out(
            stage.name, what, {"n": found["n"], **found["agreement"]}, share=True, note=" rows"
        )
    if "pair_accuracy" in outputs:
        yield _pair_accuracy(stage.name, outputs["pair_accuracy"])
    yield from _merged(stage)


def _held_out(stage: str, what: str, found: dict[str, Any], *, share: bool, note: str = "") -> Lift:
    n = int(found["n"])
    before, after, gain = (_estimate(found[key], n) for key in ("before", "after", "lift"))
    failed, problems = int(found.get("failed", 0)), int(found.get("problems", n))
    note += f" questions on {problems} problems" if problems < n else ""
    note += f"; {failed} failed and are left out" if failed else ""
    return Lift(stage, what, before, after, gain, n, share, note)


def _pair_accuracy(stage: str, found: dict[str, Any]) -> Lift:
    before, after = found["untrained"], found["held_out"]
    n, prompts = int(after["pairs"]), int(after["prompts"])
    what = "better reply of a held-out pair scores higher"
    note = f" pairs of {prompts} prompts"
    gain = found.get("lift")
    return Lift(
        stage, what, _estimate(before, n), _estimate(after, n),
        None if gain is None else _estimate(gain, n), n, True, note,
    )  # fmt: skip


def _merged(stage: StageFacts) -> Iterator[Lift]:
    """The picked point against each end of the line, on the questions that picked it."""
    outputs = stage.outputs
    against = outputs.get("lift_against") or {}
    rows = {float(row["alpha"]): row for row in outputs.get("sweep") or []}
    names = outputs.get("models") or {}
    best = rows.get(float(outputs.get("alpha", -1)))
    for end, gain in against.items():
        row = rows.get(float(end.removeprefix("alpha ")))
        if row is None or best is None:
            continue
        n = int(gain["n"])
        what = f"{outputs['metric']} at alpha {outputs['alpha']:g}, from {names.get(end, end)}"
        yield Lift(
            stage.name, what, _point(row), _point(best), _estimate(gain, n), n, True,
            "; the questions that picked alpha",
        )  # fmt: skip


def _point(row: dict[str, Any]) -> Estimate:
    low, high = map(_number, row["ci95"])
    return Estimate(_number(row["score"]), math.nan, low, high, int(row["n"]))


def _estimate(found: dict[str, Any], n: int) -> Estimate:
    low, high = map(_number, found["ci95"])
    return Estimate(_number(found["value"]), _number(found["stderr"]), low, high, n)


def _number(value: float | None) -> float:
    """JSON has no NaN: an interval that does not exist is null."""
    return math.nan if value is None else float(value)
