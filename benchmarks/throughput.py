"""Decoding of a hybrid beside a Transformer of the same size, on vLLM and two cores: the paper's 3 to 6 times.

    python benchmarks/throughput.py --picture docs/throughput.png
    python benchmarks/throughput.py --contexts 64,128 --hidden 192 --steps 4 --repeats 1   # a trial

Random weights, which speed does not read: SmolLM2's shape (heads of 64, a third as many for keys) and a hybrid
with the 9B's proportions (two attention layers of 28; state 64) and as many parameters to 1%. A point is a
batch of prompts of random ids, read, and then `steps` decoding steps of the whole batch, each timed; the two
models take turns, each in a process of its own. Two conditions: equal batch, and equal memory for caches
with as many sequences as fit, which is the paper's. Places are cache bytes of a sequence of the Transformer
for a byte of its weights: an 8B at 16k tokens is at 0.15. Predicted: bytes moved and FLOPs by model.cost at
this machine's measured bandwidth and GEMM peak.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
PATTERN = "M-M-M-M*-M-M-M-M-M-M-M*-M-M-"  # 13 M, 13 -, 2 *: of the 9B's 27, 25 and 4 the half
VOCABULARY, STATE = 8192, 64
BYTES = 4  # of a value: fp32, since bf16 is emulated on most CPUs
MODELS = ("hybrid", "transformer")


@dataclass(frozen=True, eq=False)
class Point:
    """One measurement. Example: Point("equal batch", 2048, {"hybrid": 4, "transformer": 4})"""

    condition: str
    context: int
    batch: dict[str, int]


def main() -> None:
    options = arguments()
    if options.serve:
        serve(Path(options.serve), options)
        return
    shapes = {"transformer": transformer(options), "hybrid": hybrid(options)}
    points = points_of(options, shapes)
    with tempfile.TemporaryDirectory() as scratch:
        servers = {name: Server(name, Path(scratch), options) for name in MODELS}
        found: dict[Point, dict[str, list[float]]] = {p: {m: [] for m in MODELS} for p in points}
        for _ in range(options.repeats):
            for point in points:
                for name in MODELS:
                    seconds = servers[name].ask(point.context, point.batch[name], options.steps)
                    found[point][name] += seconds
        for server in servers.values():
            server.close()
    report(options, shapes, found)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--contexts", default="128,512,1024,2048,4096,8192,16384")
    parser.add_argument("--hidden", type=int, default=384, help="of both; a multiple of 64")
    parser.add_argument("--layers", type=int, default=24, help="of the Transformer")
    parser.add_argument("--batch", type=int, default=2, help="of the equal batch")
    parser.add_argument("--cache-mb", type=int, default=512, help="of the equal memory")
    parser.add_argument("--most", type=int, default=16, help="sequences at once")
    parser.add_argument("--steps", type=int, default=32, help="timed steps of a point")
    parser.add_argument("--repeats", type=int, default=2, help="rounds over all points")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--picture", metavar="FILE", help="where the chart goes (.png, .svg)")
    parser.add_argument("--json", metavar="FILE", help="where every step's seconds go")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    return parser.parse_args()


def contexts(options: argparse.Namespace) -> list[int]:
    return [int(part) for part in options.contexts.split(",")]


def transformer(options: argparse.Namespace) -> Any:
    """SmolLM2's shape at this width."""
    from model.decoder import DecoderShape

    heads = options.hidden // 64
    return DecoderShape(
        "llama", options.layers, options.hidden, options.hidden * 8 // 3, heads, max(heads // 3, 1), 64,
        VOCABULARY,
    )  # fmt: skip


def hybrid(options: argparse.Namespace) -> Any:
    """The 9B's proportions at this width: Mamba's inner width 2.3 times the hidden one, and a feed-forward that
    makes it as large as the Transformer."""
    from model.presets import shape
    from model.sizes import parameters

    heads = options.hidden // 64
    wanted = parameters(transformer(options))

    def of(intermediate: int) -> Any:
        return shape(
            "miniature", pattern=PATTERN, hidden_size=options.hidden, intermediate_size=intermediate,
            mamba_num_heads=round(2.3 * heads) or 1, mamba_head_dim=64, n_groups=1, ssm_state_size=STATE,
            num_attention_heads=heads, num_key_value_heads=max(heads // 3, 1), head_dim=64,
            vocab_size=VOCABULARY, max_position_embeddings=longest(options),
        )  # fmt: skip

    widths = range(64, 16 * options.hidden, 16)
    best = min(widths, key=lambda width: abs(parameters(of(width)) - wanted))
    if abs(parameters(of(best)) / wanted - 1) > 0.01:
        raise SystemExit(
            f"no hybrid of {wanted:,} parameters at hidden {options.hidden}; add layers"
        )
    return of(best)


def longest(options: argparse.Namespace) -> int:
    """Tokens that an engine takes: a context, the steps, and those made while others are still read."""
    return max(contexts(options)) + options.steps + max(options.batch, options.most) + 64


def cache_bytes(s: Any, context: int) -> float:
    """Of one sequence: keys and values, and states."""
    from model.sizes import kv_cache_bytes, state_bytes

    return kv_cache_bytes(s, context, bytes_per_value=BYTES) + state_bytes(s, conv_bytes=BYTES)


def points_of(options: argparse.Namespace, shapes: dict[str, Any]) -> list[Point]:
    """Both conditions at every context. What does not fit once is left out of the equal memory."""
    found = []
    for context in contexts(options):
        found.append(Point("equal batch", context, dict.fromkeys(MODELS, options.batch)))
        # vLLM keeps whole blocks, and one sequence grows while it is measured.
        room = 0.9 * options.cache_mb * 2**20
        fits = {
            name: min(int(room // cache_bytes(s, context + options.steps)), options.most)
            for name, s in shapes.items()
        }
        if min(fits.values()):
            found.append(Point("equal memory", context, fits))
    return found


class Server:
    """A model and its engine in a process of their own."""

    def __init__(self, name: str, scratch: Path, options: argparse.Namespace) -> None:
        self.name = name
        words = [sys.executable, __file__, *sys.argv[1:], "--serve", str(scratch / name)]
        environment = {**os.environ, "OMP_NUM_THREADS": str(options.threads)}
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self._read()  # ready

    def _read(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                return json.loads(line)
        raise SystemExit(f"the process of the {self.name} ended; its error is above")

    def ask(self, context: int, batch: int, steps: int) -> list[float]:
        """Seconds of each decoding step."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([context, batch, steps]) + "\n")
        self._process.stdin.flush()
        found: list[float] = self._read()["seconds"]
        print(
            f"  {self.name:12s}{context:7,} tokens x {batch:3d}: "
            f"{1000 * statistics.median(found):8.1f} ms a step", flush=True,
        )  # fmt: skip
        return found

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()


def serve(place: Path, options: argparse.Namespace) -> None:
    """Make the model, start its engine, and measure what is asked on stdin."""
    from engine.config import EngineConfig
    from engine.vllm_engine import VllmEngine

    make_checkpoint(place, options)
    # The equal batch may need more than the equal memory has; what fits there is counted by points_of.
    engine = VllmEngine(str(place), EngineConfig(
        max_model_len=longest(options), max_num_seqs=max(options.batch, options.most),
        max_num_batched_tokens=longest(options), threads=options.threads,
        kv_cache_mb=engine_mb(options),
    ))  # fmt: skip
    measure(engine, 64, 1, 4)  # what is compiled or allocated once
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"seconds": measure(engine, *json.loads(line))}), flush=True)
    engine.close()


def engine_mb(options: argparse.Namespace) -> int:
    """What the larger of the two conditions takes."""
    each = max(cache_bytes(s, longest(options)) for s in (transformer(options), hybrid(options)))
    return max(options.cache_mb, int(1.2 * options.batch * each / 2**20)) + 64


def make_checkpoint(place: Path, options: argparse.Namespace) -> None:
    from transformers import AutoConfig

    from model.hybrid import build_config, load_model, save_model
    from model.tokenizer import train_tokenizer

    tokenizer = train_tokenizer(["a line of text"] * 3, 300, place)
    tokenizer.add_tokens([f"word{n}" for n in range(VOCABULARY - len(tokenizer))])
    if place.name == "hybrid":
        config: Any = build_config(hybrid(options))
    else:
        s = transformer(options)
        config = AutoConfig.for_model(
            "llama", hidden_size=s.hidden_size, intermediate_size=s.intermediate_size,
            num_hidden_layers=s.layers, num_attention_heads=s.num_attention_heads,
            num_key_value_heads=s.num_key_value_heads, head_dim=s.head_dim, vocab_size=VOCABULARY,
            max_position_embeddings=longest(options), tie_word_embeddings=False,
        )  # fmt: skip
    save_model(load_model(config, seed=0), place, tokenizer)


def measure(engine: Any, context: int, batch: int, steps: int) -> list[float]:
    """Seconds of `steps` decoding steps of the whole batch, behind their prompts.

    Prompts are read in one pass each at most, so the first sequence is at most `batch` tokens ahead.
    """
    from engine.protocol import Request, Sampling

    random = Random(context)
    asked = Sampling(max_tokens=steps + batch + 2, to_the_end=True, logprobs=False)
    engine.submit([
        Request([random.randrange(20, VOCABULARY) for _ in range(context)], asked, seed=place)
        for place in range(batch)
    ])  # fmt: skip
    marks = [time.perf_counter()]
    while engine.num_unfinished:
        before = engine.num_unfinished
        engine.poll(1e-4)  # one step: each takes longer
        if engine.num_unfinished == before == batch:
            marks.append(time.perf_counter())
    every = [end - begin for begin, end in pairwise(marks)]
    engine.abort()
    return every[-steps:]  # the last before anyone ended: all are decoding


def predicted(s: Any, point: Point, name: str, machine: dict[str, float]) -> float:
    """Seconds of a step."""
    from model.cost import decode_step
    from model.sizes import kv_cache_bytes

    cache = kv_cache_bytes(s, point.context, bytes_per_value=BYTES)
    step = decode_step(s, point.context, cache=cache, size=BYTES, **machine)
    return step.seconds(point.batch[name])


def ratios(point: Point, seconds: dict[str, list[float]]) -> list[float]:
    """Tokens a second of the hybrid for one of the Transformer, step by step."""
    gain = point.batch["hybrid"] / point.batch["transformer"]
    pairs = zip(seconds["transformer"], seconds["hybrid"], strict=True)
    return [gain * theirs / ours for theirs, ours in pairs]


def crossing(values: list[tuple[float, float]]) -> str:
    """Where a ratio passes 1, between its neighbours' contexts in equal steps of the logarithm."""
    for (low, before), (high, after) in pairwise(values):
        if before < 1 <= after:
            place = (1 - before) / (after - before)
            return f"{low * (high / low) ** place:,.0f} tokens"
    return "below the first context" if values and values[0][1] >= 1 else "nowhere measured"


def report(
    options: argparse.Namespace, shapes: dict[str, Any], found: dict[Point, dict[str, list[float]]]
) -> None:
    """The table, the crossovers, and the picture."""
    from machine import peaks

    from model.serving import break_even
    from model.sizes import parameters

    machine, weights = peaks(options.threads), BYTES * parameters(shapes["transformer"])
    even = break_even(shapes["hybrid"], shapes["transformer"], size=BYTES)
    for name, s in shapes.items():
        print(f"{name}: {parameters(s):,} parameters, {cache_bytes(s, 0) / 2**20:.2f} MiB of state, "
              f"{cache_bytes(s, 1) - cache_bytes(s, 0):,.0f} bytes a token")  # fmt: skip
    print(f"{options.threads} threads: {machine['flops'] / 1e9:.0f} GFLOP/s, {machine['bandwidth'] / 1e9:.1f} GB/s; "
          f"[derived] the hybrid holds less from {even.memory:,.0f} tokens and moves less from {even.traffic:,.0f}")  # fmt: skip
    print(f"{'condition':14s}{'context':>8s}{'cache/weights':>15s}{'sequences':>12s}{'hybrid tok/s':>14s}"
          f"{'Transformer':>13s}{'ratio (quartiles)':>24s}{'predicted':>11s}")  # fmt: skip
    curves: dict[str, list[Any]] = {}
    for point, seconds in found.items():
        low, middle, high = statistics.quantiles(ratios(point, seconds), n=4)
        guess = [predicted(s, point, name, machine) for name, s in shapes.items()]
        expected = point.batch["hybrid"] / point.batch["transformer"] * guess[0] / guess[1]
        place = cache_bytes(shapes["transformer"], point.context) / weights
        rates = [point.batch[name] / statistics.median(seconds[name]) for name in MODELS]
        curves.setdefault(point.condition, []).append(
            (point.context, place, low, middle, high, expected)
        )
        batch = f"{point.batch['hybrid']} : {point.batch['transformer']}"
        print(f"{point.condition:14s}{point.context:8,}{place:15.3f}{batch:>12s}{rates[0]:14.1f}{rates[1]:13.1f}"
              f"{f'{middle:.2f}x ({low:.2f} - {high:.2f})':>24s}{expected:10.2f}x")  # fmt: skip
    for condition, rows in curves.items():
        print(f"{condition}: the hybrid is faster from {crossing([(r[0], r[3]) for r in rows])}; predicted "
              f"{crossing([(r[0], r[5]) for r in rows])}")  # fmt: skip
    if options.json:
        rows = [{"point": vars(p), "seconds": s} for p, s in found.items()]
        Path(options.json).write_text(json.dumps({"machine": machine, "points": rows}) + "\n")
    if options.picture:
        draw(Path(options.picture), curves)


def draw(path: Path, curves: dict[str, list[Any]]) -> None:
    """A chart for each condition: measured with quartiles, predicted, and where both are as fast."""
    from reports.picture import save_panels
    from reports.svg import Chart, Panel, Series

    panels = []
    for condition, rows in curves.items():
        places = range(len(rows))
        measured = Series(
            "measured", [(x, r[3]) for x, r in zip(places, rows, strict=True)], "--accent",
            [(r[2], r[4]) for r in rows], "points",
        )  # fmt: skip
        guess = [(float(x), r[5]) for x, r in zip(places, rows, strict=True)]
        level = Series("", [(0.0, 1.0), (float(len(rows) - 1), 1.0)], "--faint", style="dashed")
        lines = [level, Series("predicted", guess, "--off", style="dashed"), measured]
        title = f"hybrid / Transformer, {condition}"
        ends = f"{rows[0][0]:,} to {rows[-1][0]:,} tokens"
        chart = Chart(
            title, lines, "cache bytes a sequence / weight bytes", [f"{r[1]:.2g}" for r in rows],
            y_format=lambda value: f"{value:g}x",
        )  # fmt: skip
        panels.append(Panel(title, chart, ends))
    save_panels(path, panels, {"measured": "--accent", "predicted": "--off"})


if __name__ == "__main__":
    main()
