"""Pretraining rows: tokens/s of the feed against what a step needs, cut in turns and ahead of the step.

    PYTHONPATH=. python benchmarks/pretrain_prefetch.py              # the miniature, 20 steps, three rounds

The feed alone, steps on rows that are ready, and both together: rows cut before each step, and in a thread
while earlier steps compute (pretrain.prefetch). Interleaved; the best of the rounds. One thread computes, so that
a second core is there for the feed. What a cluster needs: 184 H100 at 3,600 tokens/s each take 660,000
tokens/s (docs/scale.md).
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from data_mix.documents import trainable
from data_mix.sources import open_source
from model.hybrid import build_config, load_model
from model.tokenizer import train_tokenizer
from pretrain.documents import BlendDocuments
from pretrain.prefetch import Ahead
from pretrain.rows import RowStream
from pretrain.train import Trainer
from workbench.chat import as_text
from workbench.conversation import Conversation
from workbench.memory import keep_freed_memory
from workbench.recipe import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    keep_freed_memory()
    recipe = load("recipes/miniature.yaml", ["stages.pretrain.threads=1"])
    config: Any = recipe.stages["pretrain"]
    config = config.model_copy(update={"total_tokens": args.steps * config.step_tokens})
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(_texts(config.blend), 1536, Path(folder))
    made = _Ways(config, tokenizer)
    ways: dict[str, Callable[[], float]] = {
        "feed alone": made.feed, "steps on ready rows": made.ready, "in turns": made.in_turns,
        "ahead": made.ahead,
    }  # fmt: skip
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(args.rounds):
        for name, way in ways.items():
            best[name] = min(best[name], way())
    for name, seconds in best.items():
        print(f"{name:20} {config.num_steps * config.step_tokens / seconds:12,.0f} tokens/s")
    ready = best["steps on ready rows"]
    print(f"the feed gives {ready / best['feed alone']:.1f} times what a step needs")
    for name in ("in turns", "ahead"):
        print(f"{name}: {best[name] / ready:.3f} of the time of steps on ready rows")


def _texts(blend: Any) -> list[str]:
    found = []
    for name, source in blend.sources.items():
        for document in open_source(source, name=name, seed=17).take(50):
            plain = trainable(document)
            found.append(as_text(plain) if isinstance(plain, Conversation) else plain)
    return found


class _Ways:
    """Each way in seconds of all steps, from the same documents and weights."""

    def __init__(self, config: Any, tokenizer: Any) -> None:
        self.config, self.tokenizer = config, tokenizer
        with closing(self._feed()) as rows:
            self._rows = [rows.batch(config.rows_per_step, at) for at in self._progress()]

    def _progress(self) -> list[float]:
        return [step / self.config.num_steps for step in range(self.config.num_steps)]

    def _stream(self) -> RowStream:
        documents = BlendDocuments(self.config.blend, self.tokenizer, 17)
        return RowStream(documents, self.config.row_tokens)

    def _feed(self) -> Ahead:
        config = self.config
        return Ahead(self._stream(), num_rows=config.rows_per_step, num_steps=config.num_steps)

    def _trainer(self) -> Trainer:
        model = load_model(build_config("miniature", vocab_size=len(self.tokenizer)), seed=1)
        return Trainer(model.train(), self._stream(), self.config)

    def feed(self) -> float:
        stream, begun = self._stream(), time.perf_counter()
        for at in self._progress():
            stream.batch(self.config.rows_per_step, at)
        return time.perf_counter() - begun

    def ready(self) -> float:
        trainer, begun = self._trainer(), time.perf_counter()
        for rows in self._rows:
            trainer.train_step(rows)
        return time.perf_counter() - begun

    def in_turns(self) -> float:
        return self._trained(self._stream())

    def ahead(self) -> float:
        with closing(self._feed()) as feed:
            return self._trained(feed)

    def _trained(self, rows: RowStream | Ahead) -> float:
        trainer, begun = self._trainer(), time.perf_counter()
        for at in self._progress():
            trainer.train_step(rows.batch(self.config.rows_per_step, at))
        return time.perf_counter() - begun


if __name__ == "__main__":
    main()
