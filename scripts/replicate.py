"""Run one recipe under several seeds, and say which of its claims they show.

    python scripts/replicate.py --recipe recipes/miniature.yaml --seeds 3
    python scripts/replicate.py --recipe recipes/smoke.yaml --seeds 1,5,9 --side-by-side 3
    python scripts/replicate.py --recipe recipes/miniature.yaml --seeds 3 --report

Each seed is an ordinary run, RUN/seed-N; the same command continues after any kind of end, and more
seeds can be added. Exit codes: 0 done, 2 the user's mistake, 1 a seed failed or was stopped (the
others are reported).
"""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

try:
    from workbench.command import RECIPE_HELP, SET_HELP, child, command
    from workbench.errors import UserError
except ModuleNotFoundError:
    import wrong_python  # noqa: F401 - says so in one line, and ends

    raise

if TYPE_CHECKING:
    from reports.read import RunFacts

_MOST_SEEDS = 100
_RUN_STAGE = Path(__file__).with_name("run_stage.py")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("stages", nargs="*", metavar="STAGE", help="stage names; default: all")
    parser.add_argument("--recipe", required=True, metavar="FILE", help=RECIPE_HELP)
    parser.add_argument(
        "--seeds", default="3", metavar="N or A,B,...",
        help="how many, from the recipe's own seed on, or which (default 3)",
    )  # fmt: skip
    parser.add_argument("--run", metavar="NAME", help="folder of all seeds' runs under runs_dir")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", dest="overrides", help=SET_HELP
    )
    parser.add_argument(
        "--side-by-side", type=int, default=1, metavar="N", help="seeds at a time (default 1)"
    )
    parser.add_argument(
        "--take", metavar="RUN", action="append", default=[],
        help="take over finished stages of the same seeds of another replication, where the recipe says the "
        "same of them (may be repeated)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the plan of the first seed")
    parser.add_argument("--report", action="store_true", help="run nothing, report what is there")


def run(args: argparse.Namespace) -> int:
    """Run the seeds, then report them."""
    from workbench.graph.dag import order
    from workbench.recipe import load
    from workbench.rundir import RunDir

    recipe = load(args.recipe, args.overrides)
    seeds = seeds_of(args.seeds, recipe.seed)
    if args.side_by_side < 1:
        raise UserError(f"--side-by-side {args.side_by_side}: give 1 or more")
    place, where = RunDir.of(recipe.runs_dir, args.run or f"{recipe.name}-seeds")
    if where:
        print(where)
    if args.dry_run:
        print(
            f"{len(seeds)} runs under {place.root}: seeds {', '.join(map(str, seeds))}; the first:"
        )
        return _run_seed(args, place.root, seeds[0], "--dry-run")
    codes = {} if args.report else _run_all(args, place.root, seeds)
    if 2 in codes.values():
        return 2  # its line is on the terminal already
    wanted = order(recipe, args.stages or ["all"])
    return max(_report(place.root, seeds, wanted), *codes.values(), 0)


def seeds_of(text: str, first: int) -> list[int]:
    """`3`: the recipe's seed and the two after it; `1,5,9`: these. Raises: UserError.

    >>> seeds_of("3", 1), seeds_of("5,2", 1)
    ([1, 2, 3], [5, 2])
    """
    parts = text.split(",")
    if not all(part.strip().isdecimal() for part in parts):
        raise UserError(f"--seeds {text!r}: give how many, as in 3, or which, as in 1,5,9")
    numbers = [int(part) for part in parts]
    if len(parts) > 1:
        if len(set(numbers)) < len(numbers):
            raise UserError(f"--seeds {text!r}: a seed stands twice")
        return numbers
    if not 1 <= numbers[0] <= _MOST_SEEDS:
        raise UserError(f"--seeds {text!r}: give 1 to {_MOST_SEEDS}")
    return list(range(first, first + numbers[0]))


def _run_all(args: argparse.Namespace, root: Path, seeds: Sequence[int]) -> dict[int, int]:
    """Exit codes by seed. A mistake ends all: every seed would make it."""
    first = _run_seed(args, root, seeds[0])
    if first == 2 or len(seeds) == 1:
        return {seeds[0]: first}
    with ThreadPoolExecutor(args.side_by_side) as pool:
        codes = list(pool.map(lambda seed: _run_seed(args, root, seed), seeds[1:]))
    return dict(zip(seeds, [first, *codes], strict=True))


def _run_seed(args: argparse.Namespace, root: Path, seed: int, *more: str) -> int:
    """The run of one seed in a process of its own, so that a crash of one ends no other."""
    from workbench.recipe import override

    words = [*(args.stages or ["all"]), "--recipe", args.recipe, "--run", f"seed-{seed}"]
    for one in (*args.overrides, f"seed={seed}", override("runs_dir", str(root))):
        words += ["--set", one]
    for other in _taken_from(args, root, seed):
        words += ["--take", str(other)]
    if not more:
        print(f"seed {seed}", flush=True)
    return child(str(_RUN_STAGE), *words, *more)


def _taken_from(args: argparse.Namespace, root: Path, seed: int) -> list[Path]:
    """The runs of one seed in the replications that `--take` names; one that has no such seed gives nothing.
    Raises: UserError where there is no such replication."""
    from workbench.rundir import find_run

    found = []
    for name in args.take:
        places = (Path(name).expanduser(), root.parent / name)
        if not any(next(place.glob("seed-*"), None) for place in places):
            raise UserError(
                f"--take {name!r:.200}: there is no replication of that name, here or in {root.parent}; "
                "it is a folder with runs seed-N, such as RECIPE-seeds"
            )
        if (one := find_run(f"{name}/seed-{seed}", root.parent)) is not None:
            found.append(one.absolute())
    return found


def _report(root: Path, seeds: Sequence[int], wanted: Sequence[str]) -> int:
    """Report the seeds, of which the wanted stages are to be done. Returns the exit code."""
    from reports import read_run
    from reports.seeds import replication, verdict_lines, write_replication

    runs: dict[int, RunFacts] = {}
    missing: dict[int, str] = {}
    for seed in seeds:
        try:
            facts = read_run(root / f"seed-{seed}")
        except UserError as error:
            missing[seed] = str(error)
            continue
        runs[seed] = facts
        done = {name for name, stage in facts.stages.items() if stage.status == "done"}
        if late := [name for name in wanted if name not in done]:
            missing[seed] = f"not done: {', '.join(late)}"
    if not runs:
        raise UserError(f"{root} holds no run of these seeds; run the command without --report")
    found = replication(root, runs, missing)
    print("\n".join([*verdict_lines(found), *write_replication(found)]))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(command(run, arguments, __doc__))
