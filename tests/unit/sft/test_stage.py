"""Before anything is packed, the model at hand is asked whether it keeps documents apart."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset

from model.hybrid import build_config, load_model
from model.layers import conv, mixer
from model.layers.isolation import IsolationError
from sft import stage
from sft.config import SftConfig

SMALL: dict[str, Any] = {
    "pattern": "M*-", "hidden_size": 16, "intermediate_size": 32, "mamba_num_heads": 2,
    "mamba_head_dim": 8, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 8,
    "vocab_size": 64, "n_groups": 1, "ssm_state_size": 8, "dtype": "float32",
}  # fmt: skip


class Trained(Exception):
    """The stage came as far as its trainer."""


@pytest.mark.parametrize("concatenate", [True, False])
@pytest.mark.parametrize("leaks", [True, False])
def test_samples_are_packed_only_for_a_model_that_isolates_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, concatenate: bool, leaks: bool
) -> None:
    parts = {"x": {"source": {"type": "world", "domain": "math"}, "samples": 1}}
    config = SftConfig.model_validate({"kind": "sft", "parts": parts, "concatenate": concatenate})
    context = SimpleNamespace(config=config, parent_model=tmp_path, stage_dir=tmp_path, seed=1)
    model = load_model(build_config(**SMALL), seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05
    if leaks:
        monkeypatch.setattr(
            mixer, "causal_conv_silu", lambda x, w, b, layout: conv.causal_conv_silu(x, w, b)
        )

    def trains(**options: Any) -> None:
        raise Trained

    monkeypatch.setattr(stage, "load_base", lambda *args, **options: model)
    monkeypatch.setattr(stage, "StrictSFTTrainer", trains)
    tokenizer: Any = SimpleNamespace(pad_token_id=0)
    with pytest.raises(IsolationError if leaks and concatenate else Trained):
        stage._train(context, tokenizer, Dataset.from_list([]))  # type: ignore[arg-type]
