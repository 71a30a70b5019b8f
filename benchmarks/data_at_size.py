"""SFT rows of many samples: peak memory, tokens a second, and the feed of pretraining rows.

    python benchmarks/data_at_size.py                       # 20,000 and 200,000 samples
    python benchmarks/data_at_size.py --samples 2000000     # the acceptance: peak under 2 GB

Conversations of a JSONL file are rendered, tokenised, packed by length and read back, each number of
samples in a process of its own; prints peak RSS of the process, of which the imports, and the rates.
What a step needs: 184 H100 at 3,600 tokens/s each take 660,000 tokens/s (docs/scale.md).
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

_ROW = 8192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--samples", type=int, nargs="+", default=[20_000, 200_000])
    parser.add_argument("--workers", type=int, default=1, help="data_workers")
    parser.add_argument(
        "--bytes",
        action="store_true",
        help="a token a byte: all but the tokenizer, whose memory is a chunk's",
    )
    parser.add_argument("--folder", type=Path, help="where the files go, for one number of samples")
    args = parser.parse_args()
    if args.folder:
        print(json.dumps(_measure(args.folder, args.samples[0], args)))
        return
    print(
        "samples  tokens  rows  peak MB  imports MB  bytes a sample  tokens/s  packing s  reading tokens/s"
    )
    for count in args.samples:
        with tempfile.TemporaryDirectory() as folder:
            found = _apart(Path(folder), count, args)
        print(
            f"{count:,}  {found['tokens']:,}  {found['rows']:,}  {found['peak'] / 1e6:,.0f}  "
            f"{found['imports'] / 1e6:,.0f}  {(found['peak'] - found['imports']) / count:,.0f}  "
            f"{found['tokens'] / found['build_s']:,.0f}  {found['pack_s']:.1f}  "
            f"{found['tokens'] / found['read_s']:,.0f}"
        )


def _apart(folder: Path, count: int, args: argparse.Namespace) -> dict[str, float]:
    """Each number in a process of its own, so that one's peak is not the other's."""
    command: Sequence[str] = (
        sys.executable, __file__, "--samples", str(count), "--workers", str(args.workers),
        "--folder", str(folder), *(["--bytes"] if args.bytes else []),
    )  # fmt: skip
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _as_bytes(conversations: Any, tokenizer: Any, workers: int, tell: Any) -> Any:
    for n, one in enumerate(conversations):
        said = "".join(message["content"] for message in one.messages)
        yield one.domain, np.frombuffer(said.encode(), np.uint8).astype(np.int32)
        if n % 1000 == 0:
            tell(n, len(conversations))


def _measure(folder: Path, count: int, args: argparse.Namespace) -> dict[str, float]:
    from model.tokenizer import read_tokenizer, train_tokenizer  # the peak of imports is told apart
    from sft import stage
    from sft.config import SftConfig

    train_tokenizer(["What is 17 plus 25? The sum is 42."] * 3, 320, folder / "tokenizer")
    tokenizer = read_tokenizer(folder / "tokenizer")
    data = folder / "samples.jsonl"
    with data.open("w") as file:
        for n in range(count):
            asked = {"role": "user", "content": f"What is {n} plus {n % 97}?"}
            reply = {"role": "assistant", "content": f"The sum is {n + n % 97}."}
            file.write(json.dumps({"messages": [asked, reply]}) + "\n")
    config = SftConfig.model_validate(
        {
            "kind": "sft", "row_tokens": _ROW, "concatenate": True, "data_workers": args.workers,
            "strip_reasoning_share": 0.1,
            "parts": {"mine": {"source": {"type": "jsonl", "path": str(data)}, "samples": count}},
        }
    )  # fmt: skip
    if args.bytes:
        stage.rendered = _as_bytes
    imports = _peak()
    started, told = time.perf_counter(), [0.0]

    def tell(done: int, total: int) -> None:
        told[0] = time.perf_counter()

    rows, _, accounting = stage.build_rows(config, tokenizer, 1, folder / "rows", tell=tell)
    built = time.perf_counter()
    tokens = sum(len(row["input_ids"]) for row in rows)
    assert tokens == sum(accounting.tokens.values())
    return {
        "tokens": tokens,
        "rows": len(rows),
        "imports": imports,
        "peak": _peak(),
        "build_s": told[0] - started,
        "pack_s": built - told[0],
        "read_s": time.perf_counter() - built,
    }


if __name__ == "__main__":
    main()
