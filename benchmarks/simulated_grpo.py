"""Splits of a GRPO stage on a CPU, predicted before they are measured (docs/scale.md).

    PYTHONPATH=. python benchmarks/simulated_grpo.py [FOLDER]

Two runs are measured, of 4 and of 12 prompts a step, one engine and one trainer in turns. `plan.py --simulate`
is fitted to both and writes down what further splits take; then those are measured. Replies are sampled at a
learning rate of 1e-8, which leaves their lengths alone. 15% is the aim. The machine must be quiet. About ten
minutes on two cores; FOLDER keeps the runs (default: a temporary one).
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import mean
from typing import Any

import yaml

from workbench.rundir import read_json_lines

ROOT = Path(__file__).resolve().parents[1]
FITTED = {"four": {"prompts_per_step": 4}, "twelve": {"prompts_per_step": 12}}
PREDICTED: dict[str, dict[str, Any]] = {
    "eight": {"prompts_per_step": 8},
    "overlapped": {"prompts_per_step": 8, "max_staleness": 1},
    "two-engines": {"prompts_per_step": 8, "engine": {"replicas": 2}},
    "groups-of-16": {"prompts_per_step": 4, "group_size": 16},
}


def recipe(folder: Path) -> Path:
    """The smoke recipe with all these stages."""
    usual = {
        **{"kind": "grpo", "needs": ["sft3"], "lr": 1e-8, "num_prompts": 64, "num_held_out": 8},
        **{"num_steps": 17, "group_size": 8, "max_tokens": 96, "checkpoint_every_steps": 100},
        "prompts": {"type": "world", "domain": "conversation", "split": "rl"},
        "held_out": {"type": "world", "domain": "conversation", "split": "validation"},
    }
    stages = {
        name: {**usual, **own, "record_groups": own["prompts_per_step"]}
        for name, own in {**FITTED, **PREDICTED}.items()
    }
    whole = {
        "extends": str(ROOT / "recipes" / "smoke.yaml"),
        "name": "simulated",
        "runs_dir": str(folder / "runs"),
        "stages": stages,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(whole, sort_keys=False))
    return path


def command(script: str, *words: str) -> str:
    """What it prints."""
    asked = [sys.executable, f"scripts/{script}.py", *words]
    return subprocess.run(asked, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def run(path: Path, stage: str) -> None:
    """A stage, and what it needs."""
    command("run_stage", stage, "--recipe", str(path))


def predicted(path: Path, stage: str) -> dict[str, Any]:
    """By the runs that were measured."""
    fitted = ",".join(f"simulated/{name}" for name in FITTED)
    words = ("--recipe", str(path), "--simulate", stage, "--fitted", fitted, "--json")
    found: dict[str, Any] = json.loads(command("plan", *words))
    return found.get("simulation", found)


def measured(folder: Path, stage: str) -> dict[str, float]:
    """Means over the steps; the first warms up."""
    lines = read_json_lines(folder / "runs" / "simulated" / stage / "metrics.jsonl")
    steps = [line for line in lines if "rollout_s" in line][1:]
    return {key: mean(line[key] for line in steps) for key in ("step_s", "update_s", "wait_s")}


def main(folder: Path) -> None:
    """Measure, predict, measure."""
    path = recipe(folder)
    for name in FITTED:
        run(path, name)
        print(f"{name}: {measured(folder, name)}", flush=True)
    forecast = {name: predicted(path, name) for name in PREDICTED}
    (folder / "predicted.json").write_text(json.dumps(forecast, indent=1))
    print(json.dumps(next(iter(forecast.values()))["parts"]), flush=True)
    for name, said in forecast.items():
        run(path, name)
        found = measured(folder, name)
        off = said["step_s"] / found["step_s"] - 1
        print(
            f"{name}: predicted {said['step_s']:.2f} s a step, measured {found['step_s']:.2f} ({off:+.1%}); "
            f"update {said['update_s']:.2f} and {found['update_s']:.2f}, "
            f"wait {said['wait_s']:.2f} and {found['wait_s']:.2f}",
            flush=True,
        )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]).resolve())
    else:
        with tempfile.TemporaryDirectory() as place:
            main(Path(place))
