"""A stage begins at a checkpoint of another run: exactly there, with what is asked for, or one line says why not."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from model.hybrid import save_model
from tests import tiny
from tests.unit.rl.test_validated_trainers import KINDS, section, small, weights
from workbench.checkpoint import Checkpoints, check_same_tensors
from workbench.errors import UserError
from workbench.fork import begin, check_forks, find, kept_states
from workbench.recipe import Recipe, build
from workbench.rundir import Manifest, RunDir
from workbench.stage import StageContext
from workbench.tracking import read_metrics


def run_of(folder: Path, name: str, stage: dict[str, Any]) -> tuple[Recipe, RunDir]:
    base = {"kind": "tokenizer", "blend": tiny.BLEND}
    own = stage | {"needs": ["base"], "seed": 11}
    recipe = build({"name": "t", "runs_dir": str(folder), "stages": {"base": base, "own": own}})
    run = RunDir(folder / name)
    run.stage("own").mkdir(parents=True)
    run.adopt(recipe.resolved())
    return recipe, run


def done(run: RunDir, stage: str, kind: str, status: Any = "done", **outputs: Any) -> None:
    manifest = Manifest(stage, kind, status, {}, "digest", 0, outputs=outputs, completion="c")
    run.write_manifest(manifest)


def trained(folder: Path, name: str, tokenizer: Any, stage: dict[str, Any]) -> StageContext:
    """Train the stage, with the account that the graph keeps of it."""
    recipe, run = run_of(folder, name, stage)
    save_model(small(5), run.stage("base") / "model", tokenizer)
    done(run, "own", stage["kind"], "running")
    context = StageContext("own", recipe.stages["own"], recipe, run, {"base": run.stage("base")})
    forked = begin(recipe, run, "own")
    if forked is not None:
        context.note(forked_from=forked)
    KINDS[stage["kind"]](context)
    context.close()
    return context


@pytest.mark.parametrize("kind", ["pretrain", "offline_dpo"])
def test_a_fork_goes_on_from_exactly_there(
    kind: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """Unchanged it ends as the run it comes from, to the bit; with another rate that holds from there on;
    with the weights alone it begins at step 0, from them."""
    rate = "schedule" if kind == "pretrain" else "lr"
    stage = section(tmp_path, kind) | {"validation": None, "checkpoint_every_steps": 1}
    stage |= {rate: {"peak_lr": 1e-3} if kind == "pretrain" else 1e-3}
    whole = trained(tmp_path, "whole", tokenizer, {**stage, "keep_checkpoints": 9})
    kept = kept_states(whole.stage_dir)
    assert list(kept) == [1, 2, 3, 4, 5]

    same = trained(tmp_path, "same", tokenizer, stage | {"fork": "whole/own@2"})
    ends = weights(whole.stage_dir)
    assert all(torch.equal(t, ends[n]) for n, t in weights(same.stage_dir).items())
    assert [line["step"] for line in read_metrics(same.stage_dir / "metrics.jsonl")] == [3, 4, 5]
    account = same.outputs["forked_from"]
    assert (account["stage"], account["step"], account["optimizer"]) == ("own", 2, True)
    assert account["run"] == str(tmp_path / "whole") and len(account["sha256"]) == 64

    other = {rate: {"peak_lr": 5e-3} if kind == "pretrain" else 5e-3}
    faster = trained(tmp_path, "faster", tokenizer, stage | other | {"fork": "whole/own@2"})
    lines = read_metrics(faster.stage_dir / "metrics.jsonl")
    usual = read_metrics(whole.stage_dir / "metrics.jsonl")[2:]
    assert lines[0]["loss"] == usual[0]["loss"]  # the same weights met the same rows
    assert [a["lr"] / b["lr"] for a, b in zip(lines, usual, strict=True)] == pytest.approx(
        [5.0] * 3
    )
    assert lines[-1]["loss"] != usual[-1]["loss"]

    anew = stage | {
        "fork": {"checkpoint": "whole/own@5", "optimizer": False},
        "keep_checkpoints": 9,
    }
    again = trained(tmp_path, "again", tokenizer, anew)
    lines = read_metrics(again.stage_dir / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    first = read_metrics(whole.stage_dir / "metrics.jsonl")[0]
    assert (
        lines[0]["loss"] < first["loss"]
    )  # the first rows once more, with weights that have seen them
    assert again.outputs["forked_from"]["optimizer"] is False
    started, usual_start = kept_states(again.stage_dir)[1], kept[1]
    assert _moments(started) == _moments(usual_start) == 1.0


def _moments(path: Path) -> float:
    """How many updates the optimizer has seen."""
    file = path / "optimizer.pt" if path.is_dir() else path
    state = torch.load(file, weights_only=True)
    optimizer = state.get("optimizer", state)
    return float(next(iter(optimizer["state"].values()))["step"])


def test_what_cannot_be_forked_is_said_in_a_line(tmp_path: Path) -> None:
    stage = section(tmp_path, "pretrain") | {"validation": None}
    recipe, run = run_of(tmp_path, "a", stage)
    validated = {
        "by": "loss",
        "better": "lower",
        "best_step": 3,
        "keep": "last",
        "ended_early": False,
    }
    done(run, "own", "pretrain", validation={**validated, "history": []})
    for step in (3, 5):
        Checkpoints(run.stage("own") / "checkpoints").save(step, {"step": step})
    lines = {
        "a": "write RUN/STAGE, RUN/STAGE@STEP or RUN/STAGE@best",
        "b/own": r"there is no run 'b', here or in",
        "a/sft": r"run 'a' has no stage 'sft'; it has own",
        "a/own@4": r"step 4 is not kept; kept are 3, 5",
        "a/own@soon": r"step soon is not kept; kept are 3, 5",
    }
    for name, line in lines.items():
        with pytest.raises(UserError, match=line) as raised:
            find(name, kind="pretrain", runs=tmp_path)
        assert "\n" not in str(raised.value)
    with pytest.raises(UserError, match=r"it is of kind pretrain and this stage of kind sft"):
        find("a/own", kind="sft", runs=tmp_path)
    assert find("a/own", kind="pretrain", runs=tmp_path).step == 5
    assert find("a/own@best", kind="pretrain", runs=tmp_path).step == 3
    assert find(f"{tmp_path}/a/own@3", kind="pretrain", runs=tmp_path / "x").step == 3

    def asked(name: str, fork: Any) -> Any:
        made, other = run_of(tmp_path, name, stage | {"fork": fork})
        return check_forks(made, other, ["own"])

    assert asked("b", "a/own@3")["own"].step == 3
    with pytest.raises(UserError, match=r"a/own@5: stage 'own' has 5 steps, so nothing is left"):
        asked("c", "a/own")
    assert asked("d", {"checkpoint": "a/own", "optimizer": False})["own"].step == 5
    done(run, "own", "pretrain")
    with pytest.raises(UserError, match=r"it was not validated, so none is the best"):
        asked("e", "a/own@best")
    run.tidy("own")
    with pytest.raises(
        UserError, match=r"no checkpoint of it is kept; a stage that is done deletes"
    ):
        asked("f", "a/own")
    assert recipe.stages["own"].fork is None


def test_a_fork_of_itself_is_refused_and_one_that_has_begun_goes_on(tmp_path: Path) -> None:
    stage = section(tmp_path, "pretrain") | {"validation": None}
    run_of(tmp_path, "a", stage)
    recipe, run = run_of(tmp_path, "b", stage | {"fork": "b/own"})
    done(run, "own", "pretrain")
    with pytest.raises(UserError, match=r"no checkpoint of it is kept"):
        check_forks(recipe, run, ["own"])
    Checkpoints(run.stage("own") / "checkpoints").save(3, {"step": 3})
    assert check_forks(recipe, run, ["own"]) == {} and begin(recipe, run, "own") is None


def test_another_shape_is_named(tmp_path: Path) -> None:
    own = {"a": torch.zeros(2, 3), "b": torch.zeros(1)}
    check_same_tensors(own, dict(own))
    with pytest.raises(
        UserError,
        match=r"tensors 1 missing \(b\); 1 unexpected \(c\); 1 of another shape \(a \[4\] instead of \[2, 3\]\)",
    ):
        check_same_tensors(own, {"a": torch.zeros(4), "c": torch.zeros(1)})
