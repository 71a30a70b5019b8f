"""Which widths of a hybrid fit a memory budget, largest first (pretrain/compress/fitting.py).

    python scripts/search_widths.py                     # the paper's: nano2-9b's layers, 19.66 GiB, 128k
    python scripts/search_widths.py --model miniature --budget-gib 0.004 --context 1024 --bytes 4 \\
        --hidden 96,112,128 --ffn 256,384,512 --heads 4,6,8

Weights, KV cache and Mamba state by closed formula; no torch. Exit codes: 0 done, 2 the user's mistake.
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
    parser.add_argument(
        "--model", default="nano2-9b", metavar="PRESET", help="whose layers are kept"
    )
    parser.add_argument("--pattern", help="other layers, e.g. M-M*-; default: the preset's")
    parser.add_argument(
        "--budget-gib", type=float, metavar="GIB", help="default: the paper's 19.66"
    )
    parser.add_argument(
        "--context", type=int, default=131072, metavar="TOKENS", help="of a sequence"
    )
    parser.add_argument("--batch", type=int, default=1, metavar="N", help="sequences at once")
    parser.add_argument("--bytes", type=int, default=2, choices=(2, 4), help="of a weight")
    for name in ("hidden", "ffn", "heads"):
        parser.add_argument(f"--{name}", metavar="N,N,...", help="default: the paper's range")
    parser.add_argument("--top", type=int, default=10, metavar="N", help="how many to print")


def run(args: argparse.Namespace) -> int:
    """Search, print."""
    from model.presets import shape
    from pretrain.compress import fitting
    from pretrain.compress.config import MemoryLoad, Space

    s = shape(args.model, **({"pattern": args.pattern} if args.pattern else {}))
    load = MemoryLoad(
        memory_gib=args.budget_gib or fitting.PAPER_LOAD.memory_gib,
        context_tokens=args.context,
        batch=args.batch,
        bytes_per_value=args.bytes,
    )
    paper = fitting.PAPER_SPACE
    space = Space(
        hidden_size=numbers(args.hidden) or paper.hidden_size,
        ffn=numbers(args.ffn) or paper.ffn,
        mamba_heads=numbers(args.heads) or paper.mamba_heads,
    )
    found = fitting.candidates(s, space, load)
    print(f"{len(found)} combinations fit {load.memory_gib:,.3f} GiB")
    print("\n".join(fitting.table(found, args.top)))
    return 0


def numbers(text: str | None) -> tuple[int, ...]:
    """ "96,112" -> (96, 112); nothing -> (). Raises: UserError."""
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise UserError(f"{text!r} is not a list of whole numbers, e.g. 4480,4800,5120") from None


if __name__ == "__main__":
    sys.exit(command(run, arguments, __doc__))
