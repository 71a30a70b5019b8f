"""One GRPO step on the CPU: Anneal against TRL's GRPOTrainer, same model, prompts and replies.

    python benchmarks/grpo_step.py                    # the miniature, 4 prompts x 8 replies of 8 to 96
    python benchmarks/grpo_step.py --their-layers anneal       # TRL, with our layers in its model
    python benchmarks/grpo_step.py --prompts 16 --max-tokens 256             # strictly on-policy
    python benchmarks/grpo_step.py --prompts 16 --max-tokens 256 --overlap   # sampling beside training

A step is generation, update (forward, backward, AdamW) and, for Anneal, the weight sync with its
checks. Both take turns in one process, each on its own copy of the same weights. Anneal samples with
vLLM; TRL cannot drive vLLM on a CPU and generates with transformers. So that the updates are
comparable, TRL generates for real, is timed, and is then handed the very replies that Anneal trains
on. TRL pads prompts and replies to the longest; Anneal packs them. With --overlap the engine is a process of
its own that samples the next step's replies while this step's are trained on (max_staleness 1); the weights
go over when both are done. The share of the GEMM peak is that of the update: its FLOPs by model.cost, three
times the forward pass's, on the peak that one product reaches in this process.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
os.environ.setdefault("OMP_NUM_THREADS", "1")
PARTS = ("generation", "update", "sync", "step")
SHORTEST = 8


def main() -> None:
    options = arguments()
    with tempfile.TemporaryDirectory() as folder:
        model_folder = make_checkpoint(Path(folder))
        ours = Ours(options, model_folder)
        theirs = run_trl(options, model_folder, ours, Path(folder))
        ours.close()
    report(options, ours, theirs)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--group", type=int, default=8, help="replies a prompt")
    parser.add_argument("--max-tokens", type=int, default=96, help="longest reply")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--overlap", action="store_true", help="sample ahead, one update behind")
    parser.add_argument(
        "--their-layers", choices=("transformers", "anneal"), default="transformers"
    )
    return parser.parse_args()


def make_checkpoint(folder: Path) -> Path:
    """The miniature hybrid with random weights, as a Hugging Face checkpoint."""
    from pydantic import TypeAdapter

    from data_mix.config import SourceConfig
    from data_mix.supervised import take_conversations
    from model.hybrid import build_config, load_model, save_model
    from model.tokenizer import train_tokenizer

    world = TypeAdapter(SourceConfig).validate_python({"type": "world", "domain": "math"})
    items = take_conversations(world, 200, name="prompts", seed=0)
    texts = [str(message) for item in items for message in item.prompt]
    tokenizer = train_tokenizer(texts, 1536, folder / "tokenizer")
    model = load_model(build_config("miniature", vocab_size=len(tokenizer)), seed=0)
    return save_model(model, folder / "model", tokenizer)


class Ours:
    """Anneal's policy, optimizer and vLLM engine, a step at a time."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        import torch

        from engine.config import EngineConfig
        from engine.remote import start_engine
        from model.hybrid import load_model
        from rl.loss import LossSettings
        from workbench.memory import keep_freed_memory

        keep_freed_memory()
        self.options = options
        if options.overlap:
            start_ray()
        self.engine = start_engine(folder, EngineConfig(max_model_len=512, threads=1))
        torch.set_num_threads(options.threads)
        self.model = load_model(folder).train()
        self.vocabulary = self.model.config.vocab_size
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-5, weight_decay=0.0)
        self.settings = LossSettings(clip_high=0.2, max_tokens=options.max_tokens)
        self.version, self.sync_errors = 0, list[float]()
        self.seconds: dict[str, list[float]] = {part: [] for part in PARTS}
        self.rollouts: list[Any] = []
        self._publish()
        self._ahead = self._sample() if options.overlap else None
        self._thread = ThreadPoolExecutor(1)

    def step(self) -> None:
        """Sample, update, sync; the parts' seconds are kept."""
        begun = time.perf_counter()
        if self._ahead is None:
            self.rollouts = self._timed("generation", self._sample)
            self._timed("update", self._update)
        else:
            self.rollouts = self._ahead
            following = self._thread.submit(self._timed, "generation", self._sample)
            self._timed("update", self._update)
            self._ahead = following.result()
        self._timed("sync", self._publish)
        self.seconds["step"].append(time.perf_counter() - begun)

    def _timed(self, part: str, work: Callable[[], Any]) -> Any:
        begun = time.perf_counter()
        made = work()
        self.seconds[part].append(time.perf_counter() - begun)
        return made

    def update_flops(self) -> float:
        """Of the last update: the output layer is asked for replies alone."""
        from model.cost import forward_flops
        from model.presets import shape

        s = shape("miniature", vocab_size=self.vocabulary)
        lengths = [(len(r.prompt), len(r.completion.token_ids)) for r in self.rollouts]
        words = 2 * s.vocab_size * s.hidden_size
        return 3 * sum(
            (prompt + reply) * (forward_flops(s, prompt + reply) - words) + reply * words
            for prompt, reply in lengths
        )

    def _sample(self) -> list[Any]:
        """Replies of lengths drawn beforehand, so that both trainers have the same work."""
        from engine.protocol import Request, Sampling
        from rl.advantage import advantages
        from rl.sample import Rollout

        made, options = random.Random(len(self.seconds["generation"])), self.options
        requests = []
        for _ in range(options.prompts):
            prompt = [made.randrange(20, self.vocabulary) for _ in range(made.randint(24, 64))]
            for _ in range(options.group):
                most = made.randint(SHORTEST, options.max_tokens)
                # Token 0 is padding: as good as no stop token.
                plain = Sampling(max_tokens=most, stop_token_ids=(0,))
                requests.append(Request(prompt, plain, seed=made.getrandbits(40)))
        done = dict(self.engine.stream(requests))
        out = []
        for first in range(0, len(requests), options.group):
            rewards = [made.random() for _ in range(options.group)]
            gains = advantages(rewards, "group")
            for place, reward, gain in zip(
                range(first, first + options.group), rewards, gains, strict=True
            ):
                prompt = list(requests[place].prompt)
                out.append(Rollout(prompt, done[place], reward, gain, "ok"))
        return out

    def _update(self) -> None:
        from torch import nn

        from model.logprobs import Truncation
        from rl.update import accumulate, pack, totals_of

        rows = pack(self.rollouts, 8192)
        accumulate(
            self.model, rows, self.settings, Truncation(),
            totals=totals_of(rows), version=self.version,
        )  # fmt: skip
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.version += 1

    def _publish(self) -> None:
        from rl.weight_sync import sync

        report = sync(self.model, self.engine, version=self.version, longest=512).report
        self.sync_errors += [] if report is None else [max(report)]

    def close(self) -> None:
        """End the engine, and the Ray that it is in."""
        self.engine.close()
        if self.options.overlap:
            import ray

            ray.shutdown()


def start_ray() -> None:
    """A Ray of this benchmark's own, for an engine beside the trainer."""
    import ray

    from workbench.cluster import thread_environment

    os.environ.update(thread_environment())
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, namespace="benchmark"
    )  # fmt: skip


def run_trl(
    options: argparse.Namespace, folder: Path, ours: Ours, scratch: Path
) -> dict[str, list[float]]:
    """TRL's own training loop; before each of its steps Anneal makes one, whose replies it gets."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from model.layers.install import install

    seconds: dict[str, list[float]] = {part: [] for part in PARTS if part != "sync"}
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if options.their_layers == "anneal":
        install(model)
    size = options.prompts * options.group
    config = GRPOConfig(
        output_dir=str(scratch / "trl"), report_to=[], use_cpu=True, bf16=False, max_steps=options.repeats + 1,
        per_device_train_batch_size=size, num_generations=options.group, learning_rate=1e-5,
        max_completion_length=options.max_tokens, temperature=1.0, beta=0.0, loss_type="dapo",
        gradient_checkpointing=False, save_strategy="no", logging_strategy="no", disable_tqdm=True,
        generation_kwargs={"min_new_tokens": options.max_tokens},
        lr_scheduler_type="constant", max_grad_norm=1.0,
    )  # fmt: skip
    rewards: list[float] = []
    clock = {"generation": 0.0, "begin": 0.0}

    class Turns(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            whole = time.perf_counter() - clock["begin"]
            seconds["step"].append(whole)
            seconds["generation"].append(clock["generation"])
            seconds["update"].append(whole - clock["generation"])
            if len(seconds["step"]) <= options.repeats:
                our_turn()

    def our_turn() -> None:
        ours.step()
        rewards[:] = [float(r.reward) for r in ours.rollouts]
        clock["begin"] = time.perf_counter()

    trainer = GRPOTrainer(
        model=model, reward_funcs=lambda completions, **kwargs: list(rewards), args=config,
        train_dataset=Dataset.from_dict({"prompt": ["a"] * size}), processing_class=tokenizer,
        callbacks=[Turns()],
    )  # fmt: skip

    def generate(_: Any) -> tuple[Any, ...]:
        begun = time.perf_counter()
        prompts = [r.prompt for r in ours.rollouts]
        made, _ = trainer._generate_single_turn(prompts, None, {}, options.group)
        assert {len(ids) for ids in made} == {options.max_tokens}
        clock["generation"] = time.perf_counter() - begun
        return (
            prompts, [r.completion.token_ids for r in ours.rollouts],
            None, [""] * size, None, {}, None, None,
        )  # fmt: skip

    trainer._generate = generate
    torch.set_num_threads(options.threads)
    our_turn()
    trainer.train()
    return seconds


def report(options: argparse.Namespace, ours: Ours, theirs: dict[str, list[float]]) -> None:
    """Median seconds of each part and the ratios of neighbouring steps; the first step warms up."""
    tokens = sum(len(r.completion.token_ids) for r in ours.rollouts)
    print(
        f"miniature, {options.prompts} prompts x {options.group} replies of {SHORTEST} to "
        f"{options.max_tokens} tokens ({tokens:,} in the last step), {options.threads} threads, fp32, "
        f"TRL on {options.their_layers}' layers, {options.repeats} steps each in turns, "
        + ("sampling beside training" if options.overlap else "strictly on-policy")
    )
    print(f"{'':12s}{'Anneal s':>10s}{'TRL s':>10s}{'TRL / Anneal: median (min - max)':>36s}")
    for part in PARTS:
        mine = ours.seconds[part][1:]
        if part == "sync":
            print(f"{part:12s}{statistics.median(mine):10.2f}{'none':>10s}")
            continue
        other = theirs[part][1:]
        ratios = sorted(t / m for t, m in zip(other, mine, strict=True))
        spread = f"{statistics.median(ratios):.2f}x ({ratios[0]:.2f} - {ratios[-1]:.2f})"
        print(
            f"{part:12s}{statistics.median(mine):10.2f}{statistics.median(other):10.2f}{spread:>36s}"
        )
    from machine import peaks

    flops, peak = ours.update_flops(), peaks(options.threads)["flops"]
    rate = flops / ours.seconds["update"][-1]
    print(
        f"update: {flops / 1e9:,.0f} GFLOP in the last one, {rate / 1e9:.0f} GFLOP/s, {rate / peak:.0%} of the "
        f"GEMM peak of {options.threads} threads ({peak / 1e9:.0f} GFLOP/s)"
    )
    shares = [a / b for a, b in zip(ours.seconds["sync"], ours.seconds["step"], strict=True)][1:]
    print(
        f"sync with its checks: {statistics.median(shares):.1%} of the step (largest "
        f"{max(shares):.1%}); largest probe error {max(ours.sync_errors):.1g} nats"
    )


if __name__ == "__main__":
    main()
