"""From a stage to its Ray Train workers and back: one function runs in every worker.

The stage (a Ray task that reserves nothing) starts the workers, waits, and brings home what the
first of them left. Workers share the run directory, which on a cluster lies on a shared disk.
"""

import os
import re
import shutil
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workbench import registry
from workbench.distributed.config import DistributedConfig
from workbench.distributed.room import check_room, wait_for_room
from workbench.errors import StopRequested, UserError, one_line
from workbench.recipe import build
from workbench.rundir import RunDir, read_json, write_json
from workbench.stage import StageContext
from workbench.stuck import FOLDER as STACKS
from workbench.stuck import answer_in

_FOLDER = "workers"


def run_workers(context: StageContext, config: DistributedConfig, work: str) -> None:
    """Run `work` ("package.module:name", taking the stage's context) in every worker.

    Where one is lost all are started again, `config.restarts` times, as soon as there are machines for them,
    and continue from the newest checkpoint. What the first worker put into `context.outputs` is put into
    ours. Raises: StopRequested and UserError as the workers did; UserError where no machine comes;
    RuntimeError where a worker failed, or was lost too often.
    """
    folder = context.stage_dir / _FOLDER
    for left in reversed(range(config.restarts + 1)):
        lost = _run_once(context, config, work)
        if lost is None:
            break
        if not left or context.should_stop():
            raise RuntimeError(f"a worker was lost: {lost}")
        manifest = context.run.manifest(context.name)
        if manifest is not None:  # what the first worker has found so far
            context.outputs |= manifest.outputs
        context.warn(f"a worker was lost and all were started again: {lost}")
        wait_for_room(context, config)
    result = read_json(folder / "result.json")
    context.outputs |= result["outputs"]
    if result["status"] == "stopped":
        raise StopRequested(result["message"])
    if result["status"] == "user_error":
        raise UserError(result["message"])
    shutil.rmtree(folder / "ray", ignore_errors=True)


def _run_once(context: StageContext, config: DistributedConfig, work: str) -> str | None:
    """One start of all workers. Returns how one was lost, or None. Raises: RuntimeError where one failed."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig  # noqa: PLC0415 - only here
    from ray.train.torch import TorchConfig, TorchTrainer  # noqa: PLC0415
    from ray.train.v2.api.exceptions import TrainingFailedError  # noqa: PLC0415

    check_room(config)
    folder = context.stage_dir / _FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    on_gpu = bool(config.gpus_per_worker)
    trainer = TorchTrainer(
        _in_worker,
        train_loop_config=job_of(context, work, on_gpu=on_gpu),
        torch_config=TorchConfig(backend=_backend(config, on_gpu), timeout_s=int(config.timeout_s)),
        scaling_config=ScalingConfig(
            num_workers=config.workers,
            use_gpu=on_gpu,
            resources_per_worker={"CPU": config.cpus_per_worker, **({"GPU": 1} if on_gpu else {})},
        ),
        run_config=RunConfig(
            name="ray", storage_path=str(folder), failure_config=FailureConfig(max_failures=0)
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:
        if unseen := _UNSEEN.search(str(error)):
            raise UserError(unseen[0]) from None
        return _how_lost(folder, one_line(error))
    return None


def job_of(context: StageContext, work: str, *, on_gpu: bool) -> dict[str, Any]:
    """What a worker is told, as JSON-able values. The stage's configuration is apart from the recipe's: it has
    the hub's commits in it, which all attempts and workers share."""
    return {
        "recipe": context.recipe.resolved(),
        "config": context.config.model_dump(mode="json"),
        "root": str(context.run.root),
        "stage": context.name,
        "inputs": {name: str(path) for name, path in context.inputs.items()},
        "outputs": context.outputs,
        "work": work,
        "on_gpu": on_gpu,
    }


def context_of(job: dict[str, Any]) -> StageContext:
    """The stage's context in a worker."""
    recipe, name = build(job["recipe"]), job["stage"]
    return StageContext(
        name=name,
        config=type(recipe.stages[name]).read(job["config"], where=f"stages.{name}"),
        recipe=recipe,
        run=RunDir(Path(job["root"])),
        inputs={name: Path(path) for name, path in job["inputs"].items()},
        outputs=dict(job["outputs"]),
    )


def _backend(config: DistributedConfig, on_gpu: bool) -> str:
    """Sharded trainings also exchange plain values and save from the CPU's memory, beside NCCL."""
    if not on_gpu:
        return "gloo"
    return "cpu:gloo,cuda:nccl" if config.sharded else "nccl"


def _in_worker(job: dict[str, Any]) -> None:
    """One worker: its own log file, the stage's context, and the outcome on disk."""
    if (unseen := RunDir(Path(job["root"])).unseen()) is not None:
        raise UserError(unseen)  # there is no folder to say it in
    rank = int(os.environ["RANK"])
    folder = Path(job["root"]) / job["stage"] / _FOLDER
    _log_to(folder / f"rank-{rank}.txt")
    if not job["on_gpu"]:
        os.environ["DS_ACCELERATOR"] = "cpu"
    context = context_of(job)
    answer_in(context.stage_dir / STACKS, f"rank-{rank}")
    status, message = "done", ""
    work: Callable[[StageContext], None] = registry.resolve(job["work"])
    try:
        work(context)
    except StopRequested as stop:  # every worker agreed on it
        status, message = "stopped", str(stop)
    except UserError as error:  # the same in every worker: all read the same configuration
        status, message = "user_error", str(error)
    except BaseException as error:
        traceback.print_exc()
        said = {"message": one_line(error), "lost": bool(_LOST.search(str(error)))}
        write_json(folder / f"failure-{rank}.json", said)
        raise
    finally:
        context.close()
    if rank == 0:
        write_json(
            folder / "result.json",
            {"status": status, "message": message, "outputs": context.outputs},
        )


def _log_to(path: Path) -> None:
    """Send this process's output, that of compiled code included, to a file of its own."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)


_UNSEEN = re.compile(r"run directory .* is not to be seen on node .*")
# What gloo and NCCL say in the workers whose peer is gone.
_LOST = re.compile(r"(?i)\bgloo\b|\bnccl\b|connection (was )?(closed|reset|refused)|by peer")


def _how_lost(folder: Path, otherwise: str) -> str:
    """What is known of a worker that is gone. Raises: RuntimeError with the message of one that failed by
    itself: it would fail again."""
    found = sorted(folder.glob("failure-*.json"), key=lambda path: path.stat().st_mtime_ns)
    said = [read_json(path) for path in found]
    for failure in said:
        if not failure["lost"]:
            raise RuntimeError(str(failure["message"]))
    return str(said[0]["message"]) if said else otherwise
