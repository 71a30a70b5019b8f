"""One training step of a hybrid on the CPU: Anneal against transformers' own path.

    python benchmarks/hybrid_step.py                       # 6.6M parameters, rows of 1,024 tokens
    python benchmarks/hybrid_step.py --model miniature --threads 1
    python benchmarks/hybrid_step.py --memory              # peak memory of each path as well

A step is forward, loss, backward and AdamW on the same weights and tokens. The paths alternate
step by step, so that a busy machine slows both. `transformers` is its own model with its own loss;
`anneal` is the step of pretraining (pretrain.train), a row a microbatch; both may use all threads.
`packed` is ours with rows cut into documents of 150 tokens on average, which transformers' path
cannot isolate.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported
PATHS = ("transformers", "anneal", "packed")
MEAN_DOCUMENT_TOKENS = 150


def main() -> None:
    options = arguments()
    if options.only:
        print(peak_memory(options))
        return
    steps = {name: training_step(options, name) for name in PATHS}
    seconds = alternate(steps, options.repeats)
    report(options, seconds)
    if options.memory:
        report_memory()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", choices=("6.6M", "miniature"), default="6.6M")
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=1024, help="tokens a row")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--autocast", action="store_true", help="bf16 autocast, both paths")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--memory", action="store_true", help="also measure peak memory")
    parser.add_argument("--only", choices=PATHS, help=argparse.SUPPRESS)
    return parser.parse_args()


def training_step(options: argparse.Namespace, path: str) -> Callable[[], None]:
    """A closure that runs one step of the named path."""
    import torch
    from transformers import NemotronHForCausalLM

    from model.hybrid import build_config
    from model.layers.install import NO_TIME_STEP_CLAMP, install
    from model.packed import Rows, token_loss_sum
    from model.parallel import GradientWorkers
    from pretrain.rows import document_labels
    from workbench.memory import keep_freed_memory

    keep_freed_memory()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    config = build_config("miniature")
    if options.model == "6.6M":
        config = build_config(
            "miniature",
            pattern="M-M-M-*-M-M-",
            hidden_size=256,
            intermediate_size=1024,
            mamba_num_heads=16,
            ssm_state_size=64,
            num_attention_heads=8,
            num_key_value_heads=4,
            vocab_size=2048,
        )
    config.time_step_min = NO_TIME_STEP_CLAMP
    model = NemotronHForCausalLM(config).train()
    if path != "transformers":
        install(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    ids = torch.randint(3, config.vocab_size, (options.rows, options.length))
    starts = torch.rand(ids.shape) < 1 / MEAN_DOCUMENT_TOKENS
    seq_idx = starts.cumsum(1).int() if path == "packed" else torch.zeros_like(ids).int()
    rows = Rows(ids, document_labels(ids, seq_idx), seq_idx)
    workers = GradientWorkers(list(model.parameters()), options.threads)
    precision = "bf16" if options.autocast else "fp32"

    def theirs() -> None:
        torch.set_num_threads(options.threads)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.autocast):
            loss = model(ids, labels=ids, use_cache=False).loss
        loss.backward()

    def ours() -> None:
        parts = [Rows(*(t[i : i + 1] for t in rows)) for i in range(options.rows)]
        workers.run(
            [lambda p=p: token_loss_sum(model, p, precision) / rows.num_valid for p in parts]
        )

    def step() -> None:
        (theirs if path == "transformers" else ours)()
        optimizer.step()
        optimizer.zero_grad()

    return step


def alternate(steps: dict[str, Callable[[], None]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each step, taken in turns after one warm-up each."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(repeats):
        for name, step in steps.items():
            begin = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def report(options: argparse.Namespace, seconds: dict[str, list[float]]) -> None:
    """Print tokens/s of each path and the ratios of neighbouring steps."""
    tokens = options.rows * options.length
    kind = "bf16 autocast" if options.autocast else "fp32"
    print(
        f"{options.model}, [{options.rows} x {options.length}], {options.threads} threads, {kind}"
    )
    for name, times in seconds.items():
        print(f"  {name:13s}{tokens / statistics.median(times):8,.0f} tokens/s (median)")
    for name in PATHS[1:]:
        pairs = zip(seconds[PATHS[0]], seconds[name], strict=True)
        ratios = sorted(theirs / ours for theirs, ours in pairs)
        middle = statistics.median(ratios)
        print(f"  {name} / transformers: {middle:.2f}x ({ratios[0]:.2f}-{ratios[-1]:.2f})")


def peak_memory(options: argparse.Namespace) -> int:
    """Bytes that three steps of one path add to the peak of this process."""
    step = training_step(options, options.only)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        step()
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def report_memory() -> None:
    """Peak memory of each path, each in a process of its own."""
    peaks = {}
    for name in PATHS:
        command = [sys.executable, __file__, *sys.argv[1:], "--only", name]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        peaks[name] = int(printed.splitlines()[-1])
        print(f"  {name:13s}{peaks[name] / 2**20:8,.0f} MiB added by a step at its peak")
    for name in PATHS[1:]:
        print(f"  transformers / {name}: {peaks[PATHS[0]] / peaks[name]:.2f}x the memory")


if __name__ == "__main__":
    main()
