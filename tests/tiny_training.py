"""A hybrid of three layer kinds that two, and four, processes can share, and rows for it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from model.hybrid import build_config, load_model, save_model
from model.packed import Rows
from model.sharding.core import Core
from model.sharding.files import read_sharded
from model.sharding.shard import set_activations, whole
from pretrain.optimizer import adamw
from pretrain.rows import document_labels
from workbench.distributed.config import DistributedConfig
from workbench.distributed.mesh import Mesh, make_mesh

SIZES: dict[str, Any] = {
    "pattern": "M-*M",
    "hidden_size": 32,
    "intermediate_size": 48,
    "mamba_num_heads": 8,
    "mamba_head_dim": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
    "vocab_size": 65,  # odd: shards are of unequal sizes
    "n_groups": 4,
    "ssm_state_size": 8,
    "dtype": "float32",
}


class Words:
    """A tokenizer's place in a checkpoint: it has nothing to write."""

    def save_pretrained(self, folder: Path) -> None:
        """Nothing."""


def checkpoint(folder: Path, **changes: Any) -> Path:
    """The tiny hybrid's files."""
    return save_model(load_model(build_config(**{**SIZES, **changes}), seed=3), folder / "model")


def rows(step: int, count: int = 4, tokens: int = 48) -> Rows:
    """Rows of documents with random ends; every row has another number of valid tokens."""
    made = torch.Generator().manual_seed(100 + step)
    ids = torch.randint(3, SIZES["vocab_size"], (count, tokens), generator=made)
    cuts = torch.rand(count, tokens, generator=made) < torch.linspace(0.02, 0.3, count)[:, None]
    seq_idx = cuts.int().cumsum(1).int()
    labels = document_labels(ids, seq_idx)
    labels[0, : tokens // 3] = -100
    return Rows(ids, labels, seq_idx)


def layout(workers: int, context: int = 1, replicate: int = 1) -> DistributedConfig:
    """The recipe's section."""
    return DistributedConfig(
        workers=workers,
        strategy="fsdp",
        context=context,
        replicate=replicate,  # type: ignore[arg-type]
    )


def sharded(
    folder: Path, where: DistributedConfig, *, lr: float = 1e-3, activations: Any = "keep"
) -> Core:
    """The checkpoint on this process's mesh, and its optimizer."""
    mesh = make_mesh(where)
    model = read_sharded(folder, mesh)
    set_activations(model, activations)
    model.train()
    return Core(model, adamw(model.named_parameters(), lr=lr), mesh=mesh)


def alone(folder: Path, *, lr: float = 1e-3) -> Core:
    """The same in one process."""
    model = load_model(folder).train()
    return Core(model, adamw(model.named_parameters(), lr=lr))


def gradients(core: Core) -> dict[str, torch.Tensor]:
    """Every parameter's whole gradient."""
    return {name: whole(p.grad).clone() for name, p in core.model.named_parameters()}


def weights(core: Core) -> dict[str, torch.Tensor]:
    """Every parameter, whole."""
    return {name: whole(p.detach()).clone() for name, p in core.model.named_parameters()}


def apart(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """The largest relative distance of a tensor; infinite where one that should not be is zero."""
    assert ours.keys() == theirs.keys()
    far = 0.0
    for name, wanted in theirs.items():
        if not bool(ours[name].any()):
            return float("inf")
        distance = (ours[name].double() - wanted.double()).norm() / wanted.double().norm()
        far = max(far, float(distance))
    return far


Work = Callable[[Core, Mesh | None], Any]
