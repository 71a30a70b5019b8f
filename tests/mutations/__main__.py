"""Break important lines one at a time in a copy of the tree, and see which test notices each.

python -m tests.mutations [--only NAME ...] [--list] [--jobs N] [--again] [--table FILE]

Exit code 0: every line's break was caught. 1: one survived, or an entry no longer fits the code.
A run that was stopped goes on where it was: what is known of unchanged code is kept in .cache/.
"""

import argparse
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from tests.mutations.listed import MUTATIONS
from tests.mutations.mutation import Mutation, stale
from tests.mutations.run import Result, Results, run
from tests.mutations.tree import PRELOADED

ROOT = Path(__file__).resolve().parents[2]
_KEPT = ".cache/mutations.jsonl"


def main(
    arguments: Sequence[str] | None = None,
    *,
    mutations: Sequence[Mutation] = MUTATIONS,
    root: Path = ROOT,
    preloaded: Sequence[str] = PRELOADED,
) -> int:
    """The command. Returns the exit code."""
    asked = _parser().parse_args(arguments)
    names = [mutation.name for mutation in mutations]
    if unknown := [name for name in asked.only if name not in names]:
        print(f"error: no mutation {unknown[0]!r}; --list shows their names", file=sys.stderr)
        return 2
    chosen = [m for m in mutations if not asked.only or m.name in asked.only]
    if asked.list:
        for mutation in chosen:
            print(f"{mutation.name:32} {mutation.file:36} {mutation.why}")
        return 0
    if lines := stale(chosen, root):
        print("\n".join(f"stale      {line}" for line in lines), file=sys.stderr)
        return 1
    kept = root / _KEPT
    if asked.again:
        kept.unlink(missing_ok=True)
    lock = threading.Lock()

    def tell(mutation: Mutation, result: Result) -> None:
        with lock:
            print(
                f"{result.status:10} {mutation.name:32} {result.wall_s:6.1f} s  {result.by}",
                flush=True,
            )

    results = run(root, chosen, Results(kept), jobs=asked.jobs, preloaded=preloaded, tell=tell)
    if asked.table:
        asked.table.write_text(table(chosen, results), encoding="utf-8")
    missed = [result.name for result in results if not result.caught]
    print(
        f"{len(results) - len(missed)} of {len(results)} broken lines caught", *missed, sep="\n  "
    )
    return 1 if missed else 0


def table(mutations: Sequence[Mutation], results: Sequence[Result]) -> str:
    """Markdown: broken line, what it would do, and the test that caught it."""
    lines = ["| broken line | unseen it would mean | caught by |", "| --- | --- | --- |"]
    for mutation, result in zip(mutations, results, strict=True):
        by = f"`{result.by.split('[')[0]}`" if "::" in result.by else result.by
        shown = by if result.caught else f"{result.status}: {by}"
        lines.append(f"| `{mutation.file}` {mutation.name} | {mutation.why} | {shown} |")
    return "\n".join(lines) + "\n"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description=__doc__)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="these entries alone")
    parser.add_argument("--list", action="store_true", help="show the entries and end")
    parser.add_argument("--jobs", type=int, default=2, help="tests at once (2)")
    parser.add_argument("--again", action="store_true", help="forget what earlier runs found")
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="write a Markdown table of the results"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
