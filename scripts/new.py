"""Write a starting recipe, by five questions or by flags.

anneal new                                         asks
anneal new --goal grpo --model Qwen/Qwen3-0.6B --data prompts.jsonl --reward mine.py:score --gpus 1 --out mine.yaml
anneal new --goal sft --model miniature --out mine.yaml

What it writes passes `anneal run all --recipe FILE --dry-run`; it is checked before it is written.
"""

import argparse
import sys

try:
    from workbench.command import command
    from workbench.errors import UserError
except ModuleNotFoundError:
    import wrong_python  # noqa: F401 - says so in one line, and ends

    raise


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("--goal", metavar="GOAL", help="sft, grpo, tools (DPO on a house) or evals")
    parser.add_argument(
        "--model", metavar="MODEL", help="miniature, a checkpoint folder or a hub id"
    )
    parser.add_argument("--data", metavar="FILE", help="JSON lines; none: the miniature's world")
    parser.add_argument(
        "--reward", metavar="FILE.py:NAME", help="a function; none: each row's check"
    )
    parser.add_argument("--gpus", type=int, metavar="N", help="0: a CPU")
    parser.add_argument("--out", metavar="FILE", default="mine.yaml", help="default: mine.yaml")
    parser.add_argument("--force", action="store_true", help="replace the file")


def run(args: argparse.Namespace) -> int:
    """Ask what no flag has said, write, and say what comes next."""
    from reports.new_recipe import RecipeAnswers, ask_all, write_new

    given = {k: getattr(args, k) for k in ("goal", "model", "data", "reward", "gpus")}
    if all(value is None for value in given.values()) and not sys.stdin.isatty():
        raise UserError("nobody is here to answer; give flags, at least --goal (anneal new --help)")
    answers = ask_all(given, input) if sys.stdin.isatty() else RecipeAnswers.of(given)
    print("\n".join(write_new(answers, args.out, force=args.force)))
    return 0


if __name__ == "__main__":
    sys.exit(command(run, arguments, __doc__))
