"""What the sections of scripts/gpu_check.py share: the device with its sizes, data, a small training."""

import gc
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from model.hybrid import load_model
from model.loss import linear_cross_entropy
from workbench import kernels

Found = dict[str, Any]
TINY = {
    "pattern": "M-*M-", "hidden_size": 64, "intermediate_size": 128, "mamba_num_heads": 4,
    "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 16, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 256,
}  # fmt: skip
# Relative to the largest value. fp32: sums of thousands of terms; bf16: its own rounding, 2^-8.
LIMIT = {torch.float32: 1e-4, torch.bfloat16: 2e-2}


@dataclass
class Bench:
    """The device, and the sizes that suit it. folder: where files are left; None: nowhere."""

    device: torch.device
    folder: Path | None = None

    @property
    def on_card(self) -> bool:
        """Whether timings mean something and sizes are large."""
        return self.device.type == "cuda"

    @property
    def memory(self) -> int:
        """Bytes of the device's memory; a little of the CPU's."""
        if self.on_card:
            return int(torch.cuda.get_device_properties(self.device).total_memory)
        return 2**30

    @property
    def paths(self) -> tuple[kernels.Choice, ...]:
        """What layers are computed with: on a card by the fused kernels, and by torch's operations."""
        return ("auto", "torch") if self.on_card else ("auto",)

    @contextmanager
    def path(self, choice: kernels.Choice) -> Iterator[None]:
        """Compute so inside the block."""
        before = kernels.chosen()
        kernels.choose(choice, self.device.type)
        try:
            yield
        finally:
            kernels.choose(before, self.device.type)

    def pick(self, card: Any, cpu: Any) -> Any:
        """One of two sizes."""
        return card if self.on_card else cpu

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.on_card:
            torch.cuda.synchronize(self.device)

    def seconds(self, do: Callable[[], Any], repeats: int) -> float:
        """The shortest of some runs, after one that warms up."""
        do()
        best = math.inf
        for _ in range(repeats):
            self.wait()
            started = time.perf_counter()
            do()
            self.wait()
            best = min(best, time.perf_counter() - started)
        return best

    def peak(self) -> int:
        """Most bytes allocated since `clear`; 0 on a CPU."""
        return int(torch.cuda.max_memory_allocated(self.device)) if self.on_card else 0

    def clear(self) -> None:
        """Give memory back between sections."""
        gc.collect()
        if self.on_card:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)


def documents(tokens: int, mean: int, seed: int) -> torch.Tensor:
    """Document numbers [1, tokens] (int32) of lengths from 1 to a few times the mean."""
    draws = torch.rand(tokens, generator=torch.Generator().manual_seed(seed)) < 1 / mean
    draws[0] = False
    return draws.cumsum(0).int()[None]


def _sequence(rows: int, tokens: int, vocabulary: int, seed: int) -> torch.Tensor:
    """Ids that can be learned: steps of one number a document, modulo the vocabulary."""
    draw = torch.Generator().manual_seed(seed)
    start, step = (torch.randint(1, vocabulary, (rows, 1), generator=draw) for _ in range(2))
    return (start + (step % 7 + 1) * torch.arange(tokens)) % vocabulary


class SmallTraining:
    """A small training whose every draw is the CPU's, on any device."""

    def __init__(
        self, config: Any, device: torch.device, lr: float = 1e-3, model: Any = None,
        adam: Callable[..., torch.optim.Optimizer] = torch.optim.AdamW,
    ) -> None:  # fmt: skip
        made = load_model(config, device=str(device), seed=0) if model is None else model
        self.model: Any = made.train()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = adam(self.trained, lr=lr)
        self.device = device

    def step(self, number: int, rows: int, tokens: int, autocast: bool = False) -> float:
        """One step; its loss a token."""
        ids = _sequence(rows, tokens, int(self.model.config.vocab_size), number).to(self.device)
        numbers = (
            (torch.arange(tokens, device=self.device) // max(tokens // 4, 1)).int().expand(rows, -1)
        )
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=autocast):
            hidden = self.model.base_model(
                input_ids=ids, seq_idx=numbers, use_cache=False
            ).last_hidden_state
            labels = F.pad(ids[:, 1:], (0, 1), value=-100)
            loss = linear_cross_entropy(hidden, self.model.get_output_embeddings().weight, labels)
        loss = loss / (rows * (tokens - 1))
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())
