"""How a run is run: what counts as done, files that appear whole, exit codes, seeds."""

from tests.mutations.mutation import Mutation

_GRAPH = ("tests/unit/workbench/test_graph.py",)
_RUNDIR = ("tests/unit/workbench/test_rundir.py",)

MUTATIONS = (
    Mutation(
        "a changed configuration is done",
        "workbench/graph/dag.py",
        "if manifest.config_digest != config_digest(recipe, stage):",
        "if False:",
        "a stage keeps the result of another recipe",
        _GRAPH,
    ),
    Mutation(
        "a changed input is done",
        "workbench/graph/dag.py",
        "if manifest.inputs.get(need) != source.completion:",
        "if False:",
        "a stage keeps what it made from another parent",
        _GRAPH,
    ),
    Mutation(
        "changed code is done",
        "workbench/graph/dag.py",
        "if manifest.code_digest != stage_code_digest(recipe, stage):",
        "if False:",
        "a stage keeps what other code made",
        _GRAPH,
    ),
    Mutation(
        "files are written in place",
        "workbench/rundir.py",
        'half = path.with_name(f".{path.name}.{os.getpid()}")\n    try:',
        "half = path\n    try:",
        "a full disk or a kill leaves half a manifest",
        _RUNDIR,
    ),
    Mutation(
        "a failed folder appears",
        "workbench/rundir.py",
        "    except BaseException:\n        shutil.rmtree(half, ignore_errors=True)\n        raise\n    old",
        "    except BaseException:\n        os.rename(half, path)\n        raise\n    old",
        "a checkpoint that was cut short replaces a whole one",
        ("tests/unit/model/test_hybrid.py::test_failed_saving_leaves_the_old_checkpoint",),
    ),
    Mutation(
        "a lesser attempt replaces a result",
        "workbench/rundir.py",
        "if _worth(folder) >= _worth(kept):",
        "if True:",
        "a run that failed on a typo deletes days of training",
        _RUNDIR,
    ),
    Mutation(
        "state is written in place",
        "workbench/checkpoint.py",
        'with half.open("wb") as file:',
        'with path.open("wb") as file:',
        "a kill while saving leaves no state to continue from",
        ("tests/unit/workbench/test_checkpoint.py",),
    ),
    Mutation(
        "a user's mistake is a failure",
        "workbench/command.py",
        '    except UserError as error:\n        return _line(f"error: {error}", 2)',
        '    except UserError as error:\n        return _line(f"error: {error}", 1)',
        "scripts cannot tell a typo from a crash",
        ("tests/unit/scripts/test_hostile_user.py",),
    ),
    Mutation(
        "a failed stage is exit code 0",
        "workbench/graph/execute.py",
        'return 1 if state.signals or statuses - {"done"} else 0',
        "return 0",
        "a job that failed counts as done",
        ("tests/unit/workbench/test_drive.py",),
    ),
    Mutation(
        "all stages share a seed",
        "workbench/stage.py",
        'text = f"{recipe.seed}/{stage}".encode()',
        'text = f"{recipe.seed}".encode()',
        "every stage draws the same samples",
        ("tests/unit/workbench/test_drive.py",),
    ),
    Mutation(
        "a stopped stage is done",
        "workbench/graph/task.py",
        '        return Outcome(context.name, "stopped", str(stop))',
        '        return Outcome(context.name, "done", str(stop))',
        "half a training counts as a result",
        ("tests/unit/workbench/test_drive.py",),
    ),
)
