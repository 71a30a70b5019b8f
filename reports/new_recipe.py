"""A starting recipe from five answers. It is read, planned and looked through before it is written."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from reports.kinds import Plain
from workbench.errors import UserError, unknown_name
from workbench.inherit import extended, with_likes
from workbench.provenance import ROOT
from workbench.recipe import load, read_yaml
from workbench.rundir import RunDir

GOALS = {
    "sft": "train on conversations",
    "grpo": "reinforce by a reward",
    "tools": "preferences (DPO) on a tool environment",
    "evals": "evaluate",
}
_MINIATURE, _OWN_STAGE = "miniature", "mine"
# The stage of the miniature's recipes that a goal ends with, and the recipe.
_OF_MINIATURE = {
    "sft": ("sft1", "miniature.yaml"),
    "grpo": ("grpo", "miniature.yaml"),
    "tools": ("dpo", "miniature-paper.yaml"),
    "evals": ("evals", "miniature.yaml"),
}
_QUESTIONS = {
    "goal": "What is the run for? " + ", ".join(f"{k} ({v})" for k, v in GOALS.items()),
    "model": "Which model? miniature, a checkpoint folder or a hub id [miniature]",
    "data": "Your data? a .jsonl file [none: the miniature's own]",
    "reward": "Your reward or check? FILE.py:NAME [none: the check in each row]",
    "gpus": "How many GPUs? [0]",
}


@dataclass(frozen=True)
class RecipeAnswers:
    """Example: RecipeAnswers("grpo", "Qwen/Qwen3-0.6B", "prompts.jsonl", "mine.py:score", 1)"""

    goal: str
    model: str = _MINIATURE
    data: str = ""
    reward: str = ""
    gpus: int = 0

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> "RecipeAnswers":
        """From what is given; the rest has its default. Raises: UserError."""
        said = {key: value for key, value in given.items() if value not in (None, "")}
        if "goal" not in said:
            raise UserError(f"--goal is missing; one of: {', '.join(GOALS)}")
        if said["goal"] not in GOALS:
            raise unknown_name("goal", said["goal"], GOALS)
        try:
            gpus = int(said.get("gpus", 0))
        except ValueError:
            raise UserError(f"gpus {said['gpus']!r}: write a whole number, 0 or more") from None
        if gpus < 0:
            raise UserError(f"gpus {gpus}: write a whole number, 0 or more")
        return cls(**{**said, "gpus": gpus})


def ask_all(given: Mapping[str, Any], ask: Callable[[str], str]) -> RecipeAnswers:
    """Ask what is not given."""
    return RecipeAnswers.of(
        {
            k: ask(f"{_QUESTIONS[k]}: ").strip() if given.get(k) is None else given[k]
            for k in _QUESTIONS
        }
    )


def write_new(answers: RecipeAnswers, out: str, *, force: bool = False) -> list[str]:
    """Write the recipe; what to do next, in lines.

    Raises: UserError where the file is there, or where a dry run of the recipe would fail. Nothing is
    left of a recipe that would.
    """
    path = Path(out)
    if path.exists() and not force:
        raise UserError(f"{out} is there already; give another --out, or --force")
    if not path.parent.is_dir():
        raise UserError(
            f"the folder {str(path.parent)!r} does not exist; make it, or give another --out"
        )
    half = path.with_name(f".{path.name}.{os.getpid()}.yaml")
    text = text_of(answers, path)
    try:
        half.write_text(text, encoding="utf-8")
        if answers.goal == "grpo" and answers.data:
            held: dict[str, Any] = yaml.safe_load(text)["stages"]
            _split(
                answers.data,
                next(s["num_held_out"] for s in held.values() if s and "held_out" in s),
            )
        _dry_run(half)
        half.replace(path)
    finally:
        half.unlink(missing_ok=True)
    return [
        f"wrote {path}",
        f"anneal run all --recipe {path} --dry-run   # the plan",
        f"anneal run all --recipe {path}             # the run",
    ]


def _dry_run(path: Path) -> None:
    from workbench.graph.dag import order  # noqa: PLC0415 - only here
    from workbench.graph.plan import plan_run  # noqa: PLC0415 - same

    recipe = load(path)
    run, _ = RunDir.of(recipe.runs_dir, recipe.name)
    plan_run(recipe, run, order(recipe, ["all"]), fresh=set(recipe.stages))


def text_of(answers: RecipeAnswers, path: Path) -> str:
    """The recipe as text, with what it was made from at its head."""
    name = path.stem.lstrip(".") or "mine"
    body = _from_miniature(answers, path) if answers.model == _MINIATURE else _from_model(answers)
    about = f"{GOALS[answers.goal]}: {answers.model}"
    head = f"# Written by `anneal new`. Every key with its meaning: anneal kinds {_kind(answers)}\n"
    whole = {"name": name, "about": about, "seed": 17, **body}
    if "extends" in whole:
        whole = {"extends": whole.pop("extends"), **whole}
    return head + yaml.dump(whole, Dumper=Plain, sort_keys=False, width=100, allow_unicode=True)


def _kind(answers: RecipeAnswers) -> str:
    return {"tools": "dpo"}.get(answers.goal, answers.goal)


def _reward(answers: RecipeAnswers) -> dict[str, Any]:
    return {"reward": {"kind": "function", "function": answers.reward}} if answers.reward else {}


def _from_miniature(answers: RecipeAnswers, path: Path) -> dict[str, Any]:
    """The miniature's recipe up to the goal's stage: the stages behind it are left out."""
    end, file = _OF_MINIATURE[answers.goal]
    recipe = load(ROOT / "recipes" / file)
    kept, waiting = {"evals"} if answers.goal == "evals" else set[str](), [end]
    while waiting:
        kept.add(one := waiting.pop())
        waiting += recipe.stages[one].needs
    stages: dict[str, Any] = {name: None for name in recipe.stages if name not in kept}
    own: dict[str, Any] = {}
    if answers.goal == "sft" and answers.data:
        own = {"parts": {"own": _part(answers)}}
    if answers.goal == "grpo":
        own = {**_prompts(answers), **_reward(answers)}
    if answers.goal == "evals" and answers.data:
        stages[end] = {"benchmarks": [f"own:{answers.data}"]}
    if own:
        # Written whole under a name of its own: what a file extends is merged, not replaced.
        raw = with_likes(extended(ROOT / "recipes" / file, read_yaml)["stages"])[end]
        if answers.data:  # options of the check are those of the miniature's own answers
            raw = {
                key: value for key, value in raw.items() if key not in ("reward", "reward_options")
            }
        stages[end], stages[_OWN_STAGE] = None, {**raw, **own}
    base = os.path.relpath(ROOT / "recipes" / file, path.resolve().parent)
    return {"extends": base, "stages": stages}


def _from_model(answers: RecipeAnswers) -> dict[str, Any]:
    """A model from elsewhere, the goal's stage, and both measured."""
    stages: dict[str, Any] = {
        "base": {"kind": "convert", "source": {"type": "checkpoint", "path": answers.model}}
    }
    if answers.goal != "evals":
        stages["tuned"] = {"kind": _kind(answers), "needs": ["base"], **_training(answers)}
    benchmarks = (
        [f"own:{answers.data}"] if answers.goal == "evals" and answers.data else ["mini-math"]
    )
    engine = {} if answers.gpus else {"engine": {"dtype": "float32"}}
    stages["evals"] = {
        "kind": "evals",
        "needs": list(stages),
        "benchmarks": benchmarks,
        "limit": 50,
    }
    stages["evals"] |= {"max_tokens": 512, **engine}
    return {"stages": stages}


def _training(answers: RecipeAnswers) -> dict[str, Any]:
    engine = {"max_model_len": 2048, **({} if answers.gpus else {"dtype": "float32"})}
    if answers.goal == "sft":
        _must_have_data(answers)
        own: dict[str, Any] = {"parts": {"own": _part(answers)}, "row_tokens": 2048}
        own |= {"rows_per_step": 4, "microbatch_rows": 1, "lora": {"rank": 16, "alpha": 32}}
        return own | {"lr": 1e-4, "precision": "bf16" if answers.gpus else "fp32"}
    if answers.goal == "grpo":
        _must_have_data(answers)
        own = {**_prompts(answers), **_reward(answers), "num_steps": 50}
        return own | {"max_tokens": 1024, "lr": 1e-6, "engine": engine}
    return {
        "tasks": {"type": "house"},
        "held_out": {"type": "house", "split": "test"},
        "engine": engine,
    }


def _must_have_data(answers: RecipeAnswers) -> None:
    if not answers.data:
        raise UserError(
            f"goal {answers.goal} with the model {answers.model!r} needs --data FILE.jsonl "
            "(docs/recipes.md, Conversations), or --model miniature"
        )


def _part(answers: RecipeAnswers) -> dict[str, Any]:
    source = {"type": "jsonl", "path": answers.data}
    return {"source": source, "samples": min(_rows(answers.data), 10_000)}


def _prompts(answers: RecipeAnswers) -> dict[str, Any]:
    """The data in two files beside the recipe: who trains on what he measures measures nothing."""
    if not answers.data:
        return {}
    count, form = _rows(answers.data), {"type": "jsonl", "form": "conversation"}
    held = max(2, min(count // 10, 200))
    if count - held < 2:
        raise UserError(f"{answers.data} has {count} rows; give 4 or more, of which 2 are held out")
    training, kept = split_names(answers.data)
    return {
        "prompts": {**form, "path": training}, "num_prompts": min(count - held, 512),
        "held_out": {**form, "path": kept}, "num_held_out": held,
        "prompts_per_step": min(count - held, 8),
    }  # fmt: skip


def split_names(data: str) -> tuple[str, str]:
    """Where the two parts of a file of prompts are written."""
    path = Path(data)
    return str(path.with_name(f"{path.stem}-train.jsonl")), str(
        path.with_name(f"{path.stem}-held-out.jsonl")
    )


def _split(data: str, held: int) -> None:
    """The last rows are held out."""
    rows = [line for line in Path(data).read_bytes().splitlines(keepends=True) if line.strip()]
    for place, part in zip(split_names(data), (rows[:-held], rows[-held:]), strict=True):
        Path(place).write_bytes(b"".join(part))


def _rows(place: str) -> int:
    path = Path(place)
    if path.suffix != ".jsonl" or not path.is_file():
        raise UserError(f"data {place!r}: give a .jsonl file that is there")
    with path.open("rb") as lines:
        count = sum(1 for line in lines if line.strip())
    if not count:
        raise UserError(f"{place} has no rows")
    return count
