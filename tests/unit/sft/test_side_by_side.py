"""Rows side by side give TRL's own gradients, and every token is counted once."""

from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from model.hybrid import build_config, load_model
from sft.config import SftConfig
from sft.side_by_side import parts_of
from sft.trainer import RowCollator, StrictSFTTrainer, trl_config

LENGTHS = (5, 17, 9, 30, 2, 12, 23)


def rows() -> list[dict[str, list[int]]]:
    """Two documents a row, loss on the second half of each row."""
    made = []
    generator = torch.Generator().manual_seed(0)
    for length in LENGTHS:
        ids = torch.randint(3, 60, (length,), generator=generator).tolist()
        half = length // 2
        labels = [-100] * half + ids[half:]
        made.append(
            {"input_ids": ids, "labels": labels, "seq_idx": [0] * half + [1] * (length - half)}
        )
    return made


def trained(
    folder: Path, threads: int, **changes: Any
) -> tuple[dict[str, torch.Tensor], int, list[float]]:
    """Weights, counted tokens and losses of one pass."""
    config = SftConfig.model_validate(
        {
            "kind": "sft", "parts": {"x": {"source": {"type": "world", "domain": "math"}, "samples": 1}},
            "rows_per_step": 4, "microbatch_rows": 4, "precision": "fp32", "lr": 1e-2, "row_tokens": 64,
            **changes,
        }
    )  # fmt: skip
    torch.manual_seed(0)
    model = load_model(
        build_config(
            pattern="M*-", hidden_size=16, intermediate_size=32, mamba_num_heads=2, mamba_head_dim=8,
            num_attention_heads=2, num_key_value_heads=1, head_dim=8, vocab_size=64, n_groups=1,
            ssm_state_size=8, dtype="float32",
        ),
        seed=0,
    )  # fmt: skip
    words = {f"w{i}": i for i in range(64)}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(WordLevel(words, "w0")), pad_token="w0", eos_token="w2"
    )
    trainer = StrictSFTTrainer(
        model=model,
        args=trl_config(config, folder, 3),
        data_collator=RowCollator(0),
        train_dataset=Dataset.from_list(rows()),
        processing_class=tokenizer,
    )
    trainer.threads = threads
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    return model.state_dict(), int(trainer._total_train_tokens), losses


@pytest.mark.parametrize("changes", [{}, {"microbatch_rows": 2}], ids=["one pass", "accumulated"])
def test_weights_losses_and_tokens_are_those_of_one_pass(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    plain, tokens, losses = trained(tmp_path / "a", 1, **changes)
    beside, tokens_beside, losses_beside = trained(tmp_path / "b", 2, **changes)
    assert tokens == tokens_beside == sum(LENGTHS)
    assert losses_beside == pytest.approx(losses, abs=1e-5)
    for name, value in plain.items():
        torch.testing.assert_close(beside[name], value, atol=2e-5, rtol=1e-4, msg=name)


def test_parts_hold_every_loss_token_once() -> None:
    batch = RowCollator(0)(rows())
    parts = parts_of(batch, 3)
    assert sum(len(part["input_ids"]) for part in parts) == len(LENGTHS)
    wanted = sorted(batch["input_ids"][batch["labels"] != -100].tolist())
    got = [i for part in parts for i in part["input_ids"][part["labels"] != -100].tolist()]
    assert sorted(got) == wanted
    assert [part["input_ids"].shape[1] for part in parts] == [30, 12, 2]  # sorted by length
