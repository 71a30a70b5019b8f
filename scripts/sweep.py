"""Evaluate models on benchmarks at thinking budgets.

    python scripts/sweep.py --recipe recipes/miniature.yaml --models sft3,grpo \\
        --benchmarks mini-math,mini-science --budgets 0,8,32,none
    python scripts/sweep.py --recipe recipes/miniature.yaml --models http://host:8000/v1#name \\
        --benchmarks humaneval,gsm8k --samples 4 --limit 50
    python scripts/sweep.py --models ours=Qwen/Qwen3-0.6B,theirs=http://host:8000/v1#name --benchmarks aime24
    python scripts/sweep.py --list

A model is a stage of the run, a name in the recipe's `models`, a checkpoint folder, a hub id, or a served
model. The recipe's evals stage (or --set evals.KEY=VALUE) overrides a benchmark's protocol; the options
here override both. The same command continues after any kind of end. Exit codes: 0 done, 2 the user's mistake, 1 a failure.
"""

import argparse
import sys
from pathlib import Path

try:
    from workbench.command import RECIPE_HELP, SET_HELP, command
    from workbench.errors import UserError
except ModuleNotFoundError:
    import wrong_python  # noqa: F401 - says so in one line, and ends

    raise


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--recipe", metavar="FILE", help=RECIPE_HELP)
    parser.add_argument("--models", metavar="[NAME=]PLACE,...")
    parser.add_argument("--benchmarks", metavar="NAME,...")
    parser.add_argument("--budgets", metavar="64,256,none", help="tokens; 0: reasoning off")
    parser.add_argument("--samples", type=int, metavar="N", help="samples a question")
    parser.add_argument("--limit", type=int, metavar="N", help="questions a benchmark or category")
    parser.add_argument("--run", metavar="NAME", help="run directory under runs_dir")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", dest="overrides", help=SET_HELP
    )
    parser.add_argument("--fresh", action="store_true", help="take no earlier reply over")
    parser.add_argument("--dry-run", action="store_true", help="print what would be run")
    parser.add_argument("--list", action="store_true", help="print the benchmarks")


def run(args: argparse.Namespace) -> int:
    """Build, run, close."""
    from evals.command import SweepCommand, benchmark_lines

    if args.list:
        print("\n".join(benchmark_lines()))
        return 0
    missing = [name for name in ("models", "benchmarks") if getattr(args, name) is None]
    if missing:
        raise UserError(f"--{missing[0]} is missing (or use --list)")
    sweep = SweepCommand.build(args)
    print("\n".join(sweep.plan()))
    if args.dry_run:
        return 0
    from workbench.cluster import check_address
    from workbench.installed import require
    from workbench.registry import kind

    ours = not all(model.served for model in sweep.models)
    on_ray = ours and sweep.recipe.cluster.backend == "ray"
    require([kind("evals")], ["reports:write_pages"], ray=on_ray, engine=ours)
    if on_ray:
        check_address(sweep.recipe.cluster)
    return sweep.run(sys.stdout, _pages)


def _pages(root: Path) -> list[str]:
    from reports import read_run, write_pages  # a second of imports, after the models have answered

    return write_pages(read_run(root))


if __name__ == "__main__":
    sys.exit(command(run, arguments, __doc__))
