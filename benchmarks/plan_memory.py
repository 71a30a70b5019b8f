"""Predicted against measured peak of training, in resident memory on a CPU, for three sizes.

    python benchmarks/plan_memory.py

Each size trains two steps in a process of its own; what it held before the model was made is taken off.
Exit code 1 where one is off by more than 10%.
"""

import argparse
import resource
import subprocess
import sys
from typing import Any

TOKENS = 1024


def sizes() -> dict[str, tuple[Any, Any]]:
    """Name -> transformers' configuration, our shape of it."""
    from transformers import AutoConfig

    from model.decoder import described
    from model.hybrid import build_config
    from model.presets import shape

    small = shape(
        "miniature", hidden_size=512, intermediate_size=2048, pattern="M-M*-M-", vocab_size=16384
    )
    large = shape(
        "miniature", hidden_size=768, intermediate_size=3072, mamba_num_heads=48, vocab_size=32768,
        pattern="M-M-M*-M-M*-M-",
    )  # fmt: skip
    llama = AutoConfig.for_model(
        "llama", num_hidden_layers=8, hidden_size=640, intermediate_size=1920, num_attention_heads=10,
        num_key_value_heads=5, vocab_size=32768,
    )  # fmt: skip
    return {
        "hybrid, small": (build_config(small), small),
        "hybrid, larger": (build_config(large), large),
        "llama": (llama, described(llama.to_dict())),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        measure(options.only)
        return 0
    from model import cost
    from model.sizes import parameters
    from workbench.load import TrainingLoad

    worst = 0.0
    for name, (_, s) in sizes().items():
        load = TrainingLoad(tokens=TOKENS, row_tokens=TOKENS)
        planned = cost.training_memory(s, load).device_bytes
        done = subprocess.run(
            [sys.executable, __file__, "--only", name], capture_output=True, text=True, check=True
        )
        used = int(done.stdout.split()[-1])
        worst = max(worst, abs(planned / used - 1))
        print(
            f"{name:16} {parameters(s) / 1e6:6.1f}M  planned {planned / 2**20:7,.0f} MiB  "
            f"measured {used / 2**20:7,.0f} MiB  {planned / used - 1:+.1%}"
        )
    return 0 if worst <= 0.1 else 1


def measure(name: str) -> None:
    """Peak resident bytes over what the process held before."""
    import torch

    from model.hybrid import load_model
    from model.loss import linear_cross_entropy

    torch.set_num_threads(1)
    config, _ = sizes()[name]
    warm = torch.randn(64, 64, requires_grad=True)
    (warm @ warm).sum().backward()  # what a first product loads is not the model's
    before = peak()
    model = load_model(config, seed=0)
    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(1000, (1, TOKENS))
    for _ in range(2):
        hidden = model.base_model(
            input_ids=ids, seq_idx=torch.zeros_like(ids).int(), use_cache=False
        )
        weight = model.get_output_embeddings().weight
        (linear_cross_entropy(hidden.last_hidden_state, weight, ids.roll(-1)) / TOKENS).backward()
        del hidden
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    print(peak() - before)


def peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    sys.exit(main())
