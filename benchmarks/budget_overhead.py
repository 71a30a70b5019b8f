"""What thinking budgets cost an engine: tokens a second with and without them, interleaved.

    python benchmarks/budget_overhead.py                   # 64 streams, the miniature's shape
    python benchmarks/budget_overhead.py --streams 16 --tokens 256 --repeats 9

Two vLLM engines around the same random hybrid take turns, batch by batch, so that a busy machine
slows both: `plain` knows no budgets, `budgets` has the processor. It is measured on requests without
a budget, on budgets that are never reached (each token of each stream is looked at: the most the
processor can cost) and on budgets that close half-way. The miniature is the hardest case: the smaller
the model, the larger the processor's share of a step.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
LIMIT = 0.03
"""The share of throughput that budgets may cost."""
PROMPT_TOKENS = 64


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        make_checkpoint(Path(folder), options.preset)
        plain, budgets = (engine(folder, options, processor) for processor in (False, True))
        prompts = make_prompts(folder, options.streams)
        cases = {
            "no budget": (budgets, None),
            "never reached": (budgets, 10 * options.tokens),
            "half-way": (budgets, options.tokens // 2),
        }
        for llm, budget in ((plain, None), *cases.values()):
            run(llm, prompts, budget, options.tokens)  # compiles, warms, reads the vocabulary
        clock = watch_processor()
        pairs = measure(plain, cases, prompts, options, clock)
    report(pairs, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--preset", default="miniature", help="a shape of model.presets")
    parser.add_argument("--streams", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=96, help="sampled by each stream")
    parser.add_argument("--repeats", type=int, default=7)
    return parser.parse_args()


def make_checkpoint(folder: Path, preset: str) -> None:
    """A random model of the shape and a small tokenizer with the chat format."""
    from model.hybrid import build_config, load_model
    from model.tokenizer import train_tokenizer

    train_tokenizer(["a line\nof text </think>\n"] * 3, 400, folder)
    config = build_config(preset, vocab_size=1536, max_position_embeddings=4096)
    load_model(config, seed=0).save_pretrained(folder)


def engine(folder: str, options: argparse.Namespace, processor: bool) -> Any:
    """A vLLM engine with or without the budget processor."""
    from vllm import LLM

    from budget.engine import PROCESSOR

    return LLM(
        folder,
        dtype="float32",
        max_model_len=PROMPT_TOKENS + options.tokens + 64,
        max_num_seqs=options.streams,
        kv_cache_memory_bytes=512 * 2**20,
        enforce_eager=True,
        enable_prefix_caching=False,
        mamba_ssm_cache_dtype="float32",
        logits_processors=[PROCESSOR] if processor else None,
        seed=0,
    )


def make_prompts(folder: str, streams: int) -> list[dict[str, list[int]]]:
    """Prompts that open a trace, about PROMPT_TOKENS long."""
    from transformers import AutoTokenizer

    from workbench.chat import prompt_ids

    tokenizer = AutoTokenizer.from_pretrained(folder)
    user = [{"role": "user", "content": "abcdefgh" * (PROMPT_TOKENS // 16)}]
    ids = prompt_ids(user, tokenizer=tokenizer)[:PROMPT_TOKENS]
    return [{"prompt_token_ids": ids}] * streams


class Clock:
    """Seconds of this thread's processor time spent inside the budget processor."""

    inside = 0.0

    def timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """The same method, counted."""

        def counted(*args: Any) -> Any:
            started = time.thread_time()
            result = method(*args)
            self.inside += time.thread_time() - started
            return result

        return counted


def watch_processor() -> Clock:
    """A clock around everything that the processor does in a step."""
    from budget.processor import ThinkingBudgetProcessor as Processor

    clock = Clock()
    for name in ("update_state", "apply"):
        setattr(Processor, name, clock.timed(getattr(Processor, name)))
    return clock


@dataclass(frozen=True)
class Pair:
    """Tokens a second without and with budgets, and the processor's share of the latter's CPU time."""

    plain: float
    budgets: float
    share: float

    @property
    def ratio(self) -> float:
        """1: budgets cost nothing."""
        return self.budgets / self.plain


def run(llm: Any, prompts: list[Any], budget: int | None, tokens: int) -> float:
    """Tokens a second of one batch in which every stream samples exactly `tokens`."""
    from vllm import SamplingParams

    from budget.requests import BudgetRequest

    extra = None if budget is None else BudgetRequest(budget, grace=8).extra_args()
    params = SamplingParams(
        max_tokens=tokens, ignore_eos=True, detokenize=False, extra_args=extra, temperature=1.0
    )
    started = time.perf_counter()
    outputs = llm.generate(prompts, params, use_tqdm=False)
    seconds = time.perf_counter() - started
    sampled = sum(len(o.outputs[0].token_ids) for o in outputs)
    assert sampled == len(prompts) * tokens
    return sampled / seconds


def measure(
    plain: Any, cases: dict[str, Any], prompts: list[Any], options: argparse.Namespace, clock: Clock
) -> dict[str, list[Pair]]:
    """For each case pairs of runs, one right after the other.

    Which of the two goes first alternates: a machine that gets busier favours neither.
    """
    pairs: dict[str, list[Pair]] = {name: [] for name in cases}
    for number in range(options.repeats):
        for name, (llm, budget) in cases.items():
            speed: dict[bool, float] = {}
            share = 0.0
            for with_budgets in (number % 2 == 0, number % 2 == 1):
                inside, used = clock.inside, time.process_time()
                one, limit = (llm, budget) if with_budgets else (plain, None)
                speed[with_budgets] = run(one, prompts, limit, options.tokens)
                if with_budgets:
                    share = (clock.inside - inside) / (time.process_time() - used)
            pairs[name].append(Pair(speed[False], speed[True], share))
    return pairs


def report(cases: dict[str, list[Pair]], options: argparse.Namespace) -> None:
    """Print medians over the pairs."""
    print(f"{options.streams} streams x {options.tokens} tokens, {options.repeats} pairs a case")
    worst = 0.0
    for name, pairs in cases.items():
        ratios = sorted(pair.ratio for pair in pairs)
        share = statistics.median(pair.share for pair in pairs)
        worst = max(worst, share)
        print(
            f"{name:>13}: {statistics.median(p.budgets for p in pairs):7,.0f} tokens/s against "
            f"{statistics.median(p.plain for p in pairs):7,.0f}: ratio {statistics.median(ratios):.3f} "
            f"({ratios[0]:.3f} to {ratios[-1]:.3f}); {share:.2%} of CPU time in the processor"
        )
    verdict = "within" if worst <= LIMIT else "OVER"
    print(
        f"most of the CPU time that budgets took: {worst:.2%}; {verdict} the limit of {LIMIT:.0%}"
    )


if __name__ == "__main__":
    main()
