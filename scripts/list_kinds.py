"""List what a recipe can name, plug-ins included.

anneal kinds              stage kinds, checks, environments, sources, benchmarks
anneal kinds grpo         what one reads and writes, its keys, and the smallest recipe with it
"""

import argparse
import sys

try:
    from workbench.command import command
except ModuleNotFoundError:
    import wrong_python  # noqa: F401 - says so in one line, and ends

    raise


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("name", nargs="?", metavar="NAME", help="one of them, for more of it")


def run(args: argparse.Namespace) -> int:
    """Print."""
    from reports.kinds import details, overview

    print("\n".join(details(args.name) if args.name else overview()))
    return 0


if __name__ == "__main__":
    sys.exit(command(run, arguments, __doc__))
