"""Replicate the paper in miniature: its recipes under several seeds, then docs/replication.md and its picture.

    python scripts/paper.py                                  (make paper: hours on two cores)
    python scripts/paper.py --only miniature,miniature-budget --seeds 5
    python scripts/paper.py --report                         (run nothing: write the page)

Which recipes, and which claims of the paper they answer, says docs/replication/rows.yaml. Each recipe is a
replication (scripts/replicate.py), which takes over the stages that an earlier one has finished; the page is
written anew as each ends, and the same command continues. Exit codes as those of replicate.py.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

try:
    from workbench.command import SET_HELP, child, command
    from workbench.errors import unknown_name
except ModuleNotFoundError:
    import wrong_python  # noqa: F401 - says so in one line, and ends

    raise

if TYPE_CHECKING:
    from reports.paper_claims import Paper

_ROOT = Path(__file__).resolve().parents[1]
_REPLICATE = Path(__file__).with_name("replicate.py")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--seeds", default="3", metavar="N or A,B,...", help="as of replicate.py (default 3)"
    )
    parser.add_argument(
        "--side-by-side", type=int, default=1, metavar="N", help="seeds at a time (default 1)"
    )
    parser.add_argument("--only", metavar="RECIPE,...", help="these recipes alone, by name")
    parser.add_argument(
        "--set", action="append", default=[], metavar="A.B=C", dest="overrides", help=SET_HELP
    )
    parser.add_argument(
        "--docs", type=Path, default=_ROOT / "docs", metavar="FOLDER",
        help="where replication/rows.yaml is, and replication.md is written (default: docs)",
    )  # fmt: skip
    parser.add_argument("--report", action="store_true", help="run nothing, write the page")


def run(args: argparse.Namespace) -> int:
    """Run the recipes one after another; the page says what is there."""
    from reports.paper_claims import read_paper

    paper = read_paper(args.docs / "replication")
    wanted = [name.strip() for name in args.only.split(",")] if args.only else list(paper.recipes)
    for name in wanted:
        if name not in paper.recipes:
            raise unknown_name("recipe", name, paper.recipes)
    codes = [0]
    for name in [] if args.report else [name for name in paper.recipes if name in wanted]:
        codes.append(_replicate(args, paper, name))
        if codes[-1] == 2:
            return 2  # its line is on the terminal already
        _write(args.docs, paper)
    if args.report:
        _write(args.docs, paper)
    return max(codes)


def _replicate(args: argparse.Namespace, paper: "Paper", name: str) -> int:
    """One recipe's seeds. Its record is kept where every seed is there."""
    from reports.paper_claims import keep_record
    from reports.seeds import RECORDS
    from workbench.recipe import load
    from workbench.rundir import RunDir

    path = _ROOT / "recipes" / f"{name}.yaml"
    recipe = load(str(path), args.overrides)
    own = paper.recipes[name]
    place, _ = RunDir.of(recipe.runs_dir, f"{name}-seeds")
    words = ["--recipe", str(path), "--seeds", "1" if own.seeds == "inside" else args.seeds]
    for other in own.take:
        if any((place.root.parent / f"{other}-seeds").glob("seed-*")):
            words += ["--take", f"{other}-seeds"]
    words += ["--side-by-side", str(args.side_by_side)]
    for one in args.overrides:
        words += ["--set", one]
    print(f"== {name}", flush=True)
    began = time.monotonic()
    code = child(str(_REPLICATE), *words)
    print(
        f"== {name}: exit code {code} after {(time.monotonic() - began) / 60:.0f} min", flush=True
    )
    kept = args.docs / "replication" / f"{name}.json"
    if code == 0 and args.overrides:
        print(f"{name}: the published record stays, because --set makes another recipe of it")
    elif code == 0 and not keep_record(place.root / RECORDS, kept):
        print(f"{name}: the published record stays, because it has more seeds")
    return code


def _write(docs: Path, paper: "Paper") -> None:
    from reports.paper_claims import page, read_records, save_picture
    from workbench.files import write_whole

    records = read_records(docs / "replication", paper)
    write_whole(docs / "replication.md", page(paper, records))
    print(f"table: {docs / 'replication.md'}")
    if save_picture(docs / "replication.png", paper, records):
        print(f"picture: {docs / 'replication.png'}")


if __name__ == "__main__":
    sys.exit(command(run, arguments, __doc__))
