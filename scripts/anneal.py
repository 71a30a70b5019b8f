"""The command `anneal`: run, plan, sweep, replicate, report and doctor, with the options of the scripts.

anneal run all --recipe recipes/miniature.yaml
anneal --print-completion bash > ~/.local/share/bash-completion/completions/anneal
"""

import argparse
import sys

from scripts import (
    chat,
    doctor,
    export,
    list_kinds,
    new,
    paper,
    plan,
    publish,
    replicate,
    report,
    run_stage,
    search_widths,
    serve,
    sweep,
    watch,
)
from workbench.command import finish

_COMMANDS = {
    "run": run_stage,
    "plan": plan,
    "sweep": sweep,
    "replicate": replicate,
    "paper": paper,
    "report": report,
    "watch": watch,
    "export": export,
    "publish": publish,
    "serve": serve,
    "chat": chat,
    "doctor": doctor,
    "kinds": list_kinds,
    "new": new,
    "search-widths": search_widths,
}


def parser() -> argparse.ArgumentParser:
    """Every command with its options."""
    whole = argparse.ArgumentParser(prog="anneal", description="A post-training workbench.")
    _add_completion(whole)
    commands = whole.add_subparsers(required=True, metavar="COMMAND")
    for name, script in _COMMANDS.items():
        about = (script.__doc__ or "").split("\n", 1)[0]
        one = commands.add_parser(name, help=about, description=about)
        script.arguments(one)
        one.set_defaults(entry=script.run)  # `run` is an argument of several
    return whole


def _add_completion(whole: argparse.ArgumentParser) -> None:
    try:
        import shtab  # a Python without the dependencies can still say what it lacks
    except ModuleNotFoundError:
        return
    shtab.add_argument_to(whole, "--print-completion")


def main() -> int:
    """Run the command that was asked for. Returns the exit code."""
    args = parser().parse_args()
    return finish(lambda: int(args.entry(args)))


if __name__ == "__main__":
    sys.exit(main())
