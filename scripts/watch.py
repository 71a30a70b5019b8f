"""Watch a run: a live page of its stages, losses, rewards, newest rollouts and warnings.

anneal watch miniature                  (a name under runs/, or a folder); open what it prints
anneal watch miniature --port 8090

Served to this machine alone, read from the run directory; the run knows nothing of it. Ctrl-C ends it.
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
    parser.add_argument("run", metavar="RUN", help="a run's name under runs/, or its folder")
    parser.add_argument(
        "--port", type=int, default=8088, metavar="N", help="default: 8088; 0: a free one"
    )
    parser.add_argument(
        "--every", type=float, default=3.0, metavar="S", help="seconds between readings"
    )


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C."""
    if args.every <= 0:
        raise UserError(f"--every {args.every:g}: give a number of seconds above 0")
    from reports.read import run_folder
    from reports.watch import server

    with server(run_folder(args.run), port=args.port, every_s=args.every) as served:
        print(f"http://127.0.0.1:{served.server_port}/   (Ctrl-C ends it)", flush=True)
        try:
            served.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


if __name__ == "__main__":
    sys.exit(command(run, arguments, __doc__))
