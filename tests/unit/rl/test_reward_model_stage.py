"""A reward model that is resumed is measured against the same untrained head as before."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from model.hybrid import build_config, load_model
from rl.reward_model import stage
from workbench.distributed.config import DistributedConfig
from workbench.recipe import StageConfig

SMALL: dict[str, Any] = {
    "pattern": "M-*-", "hidden_size": 32, "intermediate_size": 64, "mamba_num_heads": 4,
    "mamba_head_dim": 16, "n_groups": 2, "ssm_state_size": 8, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 320,
}  # fmt: skip


class Begun(Exception):
    """Training would begin."""


def test_the_head_does_not_depend_on_what_was_drawn_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first attempt samples replies; a resumed one reads its pairs from a file and draws nothing."""
    heads: list[torch.Tensor] = []
    draws = [1000, 0]

    def data(context: Any, tokenizer: Any) -> dict[str, Any]:
        torch.rand(draws[len(heads)])
        rows = [{"prompt": "p", "chosen_ids": [5, 6], "rejected_ids": [7]}]
        return {name: {"rows": rows, "account": {}} for name in ("train", "held_out")}

    def train(context: Any, model: Any, tokenizer: Any, rows: Any, validation: Any) -> None:
        heads.append(model.head.weight.detach().clone())
        raise Begun

    monkeypatch.setattr(stage, "_data", data)
    monkeypatch.setattr(stage, "_train", train)
    monkeypatch.setattr(stage, "read_tokenizer", lambda path: SimpleNamespace(pad_token_id=0))
    monkeypatch.setattr(
        stage, "load_base", lambda path, lora, device: load_model(build_config(**SMALL), seed=1)
    )
    for _ in range(2):
        context: Any = SimpleNamespace(
            config=StageConfig(kind="reward_model").model_copy(update={"threads": 1, "precision": "fp32", "lora": None, "validation": None, "distributed": DistributedConfig()}),
            seed=7, parent_model=tmp_path, outputs={},
            stage_dir=tmp_path, progress=lambda **words: None, note=lambda **found: None,
            warn=lambda *lines: None,
        )  # fmt: skip
        with pytest.raises(Begun):
            stage.run(context)
    assert bool(heads[0].any())
    assert torch.equal(heads[0], heads[1])
