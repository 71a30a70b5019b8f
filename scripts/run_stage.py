"""Run stages of a recipe, with what they need, on Ray.

    python scripts/run_stage.py all --recipe recipes/miniature.yaml
    python scripts/run_stage.py grpo --recipe recipes/miniature.yaml --set stages.grpo.num_steps=20
    python scripts/run_stage.py grpo --recipe recipes/miniature.yaml --run slower --fork miniature/grpo@10 --set stages.grpo.lr=3e-5
    ray job submit --working-dir . -- python scripts/run_stage.py all --recipe recipes/miniature.yaml

`python` is the environment's: .venv/bin/python, which `make setup` makes. Exit codes: 0 done, 2 the user's mistake, 1 a failure or a stop (the same command continues).
"""

import argparse
import json
import sys
from functools import partial
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from workbench.recipe import Recipe
    from workbench.rundir import RunDir

try:
    from workbench.command import RECIPE_HELP, SET_HELP, command
except ModuleNotFoundError:
    import wrong_python  # noqa: F401 - says so in one line, and ends

    raise


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("stages", nargs="+", metavar="STAGE", help="stage names, or all")
    parser.add_argument("--recipe", required=True, metavar="FILE", help=RECIPE_HELP)
    parser.add_argument("--run", metavar="NAME", help="run directory under runs_dir")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", dest="overrides", help=SET_HELP
    )
    parser.add_argument("--dry-run", action="store_true", help="print the resolved recipe and plan")
    parser.add_argument("--fresh", action="store_true", help="run the named stages from scratch")
    parser.add_argument(
        "--fork", metavar="RUN/STAGE[@STEP]",
        help="begin the named stage at a checkpoint of another run, and take over what it needs from there; "
        "@best: that of the best validation (with --run NAME; stages.STAGE.fork.optimizer=false: its weights "
        "alone)",
    )  # fmt: skip
    parser.add_argument(
        "--take", metavar="RUN", action="append", default=[],
        help="take over finished stages of another run, a folder or a name under runs_dir, where the recipe "
        "says the same of them (may be repeated: the first run that has a stage)",
    )  # fmt: skip
    parser.add_argument("--address", metavar="RAY", help="a running Ray cluster, host:port or auto")


def run(args: argparse.Namespace) -> int:
    """Build, run, close."""
    from workbench.recipe import load, override

    if args.address:
        args.overrides.append(override("cluster.address", args.address))
    if args.fork:
        key = f"stages.{_forked(args)}.fork.checkpoint"
        args.overrides.insert(0, override(key, args.fork))
    from workbench.graph.dag import order
    from workbench.rundir import RunDir

    recipe = load(args.recipe, args.overrides)
    stages = order(recipe, args.stages)
    place, where = RunDir.of(recipe.runs_dir, args.run or recipe.name)
    from scripts.plan_disk import with_disk
    from scripts.plan_room import check_cards, check_memory
    from workbench.graph.plan import check_disk, plan_run

    place.check_owner(recipe.resolved())
    taken = _taken(args, recipe, place, stages) if args.fork or args.take else {}
    named = set(recipe.stages) if "all" in args.stages else set(args.stages)
    fresh = named if args.fresh else set()
    plan = with_disk(recipe, plan_run(recipe, place, stages, fresh=fresh, taken=taken))
    check_memory(recipe, [name for name in stages if plan.decisions[name].run])
    if args.dry_run:
        print(json.dumps(recipe.resolved(), indent=1, ensure_ascii=False))
        print("\n".join(plan.lines))
        return 0
    from workbench.cluster import check_address
    from workbench.installed import require

    require(plan.kinds, ["reports:write_report"], ray=recipe.cluster.backend == "ray")
    check_address(recipe.cluster)
    # Imported after everything that can be the user's mistake: these take seconds.
    from reports import write_report
    from workbench.graph.execute import drive

    if where:
        print(where)
    with place.claimed():
        place.adopt(recipe.resolved())
        check_disk(plan, place)
        # The report is written anew as each stage ends: a run of days has one from its first hour.
        again = partial(write_report, place.root)
        code = drive(
            recipe, place, stages, fresh=fresh, out=sys.stdout, ended=again, check=check_cards
        )
        print(write_report(place.root))
    return code


def _forked(args: argparse.Namespace) -> str:
    """The one stage that a fork is of."""
    from workbench.errors import UserError

    if len(args.stages) != 1 or args.stages == ["all"]:
        raise UserError(
            f"--fork needs one stage, got {' '.join(args.stages)!r}; name the one stage that begins "
            "at the checkpoint"
        )
    return str(args.stages[0])


def _taken(
    args: argparse.Namespace, recipe: "Recipe", place: "RunDir", stages: list[str]
) -> dict[str, "Path"]:
    """Take finished stages over from the runs that `--take` names, and what a forked stage needs from the run
    that it comes from. Those that a dry run would take."""
    from workbench.fork import check_forks
    from workbench.graph.take import answered, runs_named, take, take_replies, takeable, taken_lines

    origins = runs_named(args.take, place.root.parent)
    origins += [fork.run for fork in check_forks(recipe, place, stages).values()]
    fresh = args.stages if args.fresh else []
    kept = [] if "all" in fresh else [name for name in stages if name not in fresh]
    found = takeable(recipe, place, kept, origins)
    replies = answered(recipe, place, kept, origins)
    if args.dry_run or not (found or replies):
        return found
    with place.claimed():
        take(place, found)
        take_replies(place, replies)
    print("\n".join(f"taken over {line}" for line in taken_lines(found, replies)))
    return {}


if __name__ == "__main__":
    sys.exit(command(run, arguments, __doc__))
