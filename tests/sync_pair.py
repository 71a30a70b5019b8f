"""A trainer's hybrid and a real vLLM engine that holds it."""

from pathlib import Path
from typing import Any

import torch

from engine.config import EngineConfig
from engine.sync_check import SyncReport
from model.lora import add_adapters, has_adapters, load_base, merged_wide
from model.lora_config import LoraConfig
from model.sharding.converted import all_as_in_files

MAX_LEN = 128
KINDS = ["all weights", "adapters", "adapters over 4 bits", "adapters beside experts"]


class Pair:
    """A trainer's model and an engine; `move` is what an optimizer's step does to the weights. lora: the
    model has adapters, which alone move; their base may be in 4 bits, and all else is in fp32. experts: Granite 4
    with experts in the miniature's place."""

    def __init__(
        self,
        folder: Path,
        dtype: Any = "float32",
        *,
        lora: bool = False,
        base: Any = "float32",
        experts: bool = False,
    ) -> None:
        from engine.vllm_engine import VllmEngine
        from model.hybrid import load_model, save_model
        from model.tokenizer import train_tokenizer

        tokenizer = train_tokenizer(["a line\nof text </think>\n"] * 3, 300, folder / "tokenizer")
        self.experts = experts
        self.model: Any = load_model(_config(len(tokenizer), experts=experts), seed=0)
        self.made = torch.Generator().manual_seed(1)
        self.version, self.half = 0, dtype == "bfloat16"
        self.move(0.02)  # biases and D away from their constants
        save_model(self.model, folder / "model", tokenizer)
        settings = EngineConfig(
            dtype=dtype, max_model_len=MAX_LEN, max_num_seqs=4, max_num_batched_tokens=256,
            kv_cache_mb=64,
        )  # fmt: skip
        self.engine = VllmEngine(str(folder / "model"), settings)
        if lora:
            how = LoraConfig(rank=4, alpha=8, base=base)
            if base == "nf4":
                self._quantise(folder, how)
            add_adapters(self.model, how)
            self.move(0.02)

    def _quantise(self, folder: Path, how: LoraConfig) -> None:
        """Products are computed in fp32 like an engine's, or the probes' limit would be bf16's."""
        from rl.weight_sync import write_base

        self.model = load_base(folder / "model", how, "cpu").float()
        self.engine.load_checkpoint(str(write_base(self.model, folder / "base")), version=0)

    def move(self, size: float = 3e-4) -> None:
        with torch.no_grad():
            for parameter in filter(lambda p: p.requires_grad, self.model.parameters()):
                step = torch.randn(parameter.shape, generator=self.made)
                parameter.add_(size * step.sign() * (0.5 + step.abs() / 2))

    def sync(self, engine: Any = None) -> SyncReport:
        from rl.weight_sync import sync

        self.version += 1
        report, self.sent_bytes = sync(
            self.model, engine or self.engine, version=self.version, longest=MAX_LEN, half=self.half
        )
        assert report is not None
        return report

    def sent(self) -> dict[str, torch.Tensor]:
        """What a sync sends."""
        from rl.weight_sync import sent_state

        return {k: v.detach().clone() for k, v in sent_state(self.model).items()}

    def state(self) -> dict[str, torch.Tensor]:
        """All that an engine loads of it, as its files have it."""
        if not has_adapters(self.model):
            return self.sent()
        named = all_as_in_files(self.model, merged_wide(self.model))
        return {name: tensor.clone() for name, tensor in named}


def pair_of(kind: str, folder: Path, dtype: Any = "float32") -> Pair:
    """One of `KINDS`."""
    base = "nf4" if "4 bits" in kind else "float32"
    return Pair(folder, dtype, lora="adapters" in kind, base=base, experts="experts" in kind)


def _config(vocabulary: int, *, experts: bool) -> Any:
    from model.hybrid import build_config
    from tests.family_trial import config_of

    if experts:
        config = config_of("granite, experts")
        config.initializer_range = 0.1  # the miniature's: at 0.02 layers hardly move a probe
        return config
    return build_config("miniature", vocab_size=vocabulary, max_position_embeddings=MAX_LEN)
