"""Write a model in another form: int8 or fp8 weights, or a GGUF, and say how far it is from the original.

anneal export runs/miniature/grpo int8                 -> runs/miniature/grpo/exports/int8
anneal export runs/miniature/grpo gguf-q8_0            (llama.cpp's converter, where it is installed)

`anneal publish RUN STAGE --form int8` takes it from there. Exit codes: 0 done, 2 the user's mistake.
"""

import argparse
import sys
from pathlib import Path

try:
    from workbench.command import command
    from workbench.errors import UserError
    from workbench.hub import folder_of
except ModuleNotFoundError:
    import wrong_python  # noqa: F401 - says so in one line, and ends

    raise


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("model", metavar="MODEL", help="a stage's or a checkpoint's folder")
    parser.add_argument(
        "form", metavar="FORM", help="int8, fp8, gguf-f16, gguf-bf16, gguf-f32, gguf-q8_0"
    )
    parser.add_argument("--to", metavar="FOLDER", help="default: exports/FORM beside the model")


def run(args: argparse.Namespace) -> int:
    """Write, compare, print."""
    from model.export import QUANTISED, distance, export

    folder = folder_of(args.model)
    if folder is None:
        raise UserError(
            f"model {args.model!r} is not a stage's folder and no checkpoint folder (with config.json)"
        )
    to = Path(args.to).expanduser() if args.to else folder.parent / "exports" / args.form
    export(folder, args.form, to)
    sizes = [
        sum(p.stat().st_size for p in place.iterdir() if p.is_file()) for place in (folder, to)
    ]
    print(f"{to}: {sizes[1] / 2**20:,.1f} MB, where the original has {sizes[0] / 2**20:,.1f}")
    if args.form in QUANTISED:
        found = distance(folder, to)
        print(
            f"on {found.n:,} tokens of the original's own: KL {found.kl:.2g} nats, the same likeliest token "
            f"on {100 * found.same_likeliest:.1f}%"
        )
    return 0


if __name__ == "__main__":
    sys.exit(command(run, arguments, __doc__))
