"""No step of a training on preferences, and no measure of it, holds a tensor of tokens times vocabulary."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trl.kernels.chunked_logprob
import trl.trainer.utils
from datasets import Dataset
from transformers import PreTrainedTokenizerFast

import model.logprobs
from model.hybrid import build_config, load_model
from rl.dpo.trainer import PairCollator, StrictDPOTrainer
from rl.preference.rows import labelled_rows, pair_rows
from rl.preference.stage import StrictKTOTrainer, dpo_arguments, held_out_logps, kto_arguments
from tests.unit.model.test_logprobs import Largest
from tests.unit.rl.test_preference import PAIRS, REPLIES, SMALL, dpo, given, kto

VOCABULARY = 8192
Run = Callable[[], object]


def trained_on_pairs(net: Any, tokenizer: Any, folder: Path) -> tuple[list[Any], Run]:
    config = dpo(folder, trl={"max_steps": 1}, pairs_per_step=8, microbatch_pairs=8)
    rows, _ = pair_rows(given(config, PAIRS[:8]), tokenizer, thinking=False, row_tokens=400)

    def run() -> object:
        data = Dataset.from_list([{k: v for k, v in r.items() if k != "prompt"} for r in rows])
        return StrictDPOTrainer(
            model=net, args=dpo_arguments(config, folder / "c", 1), data_collator=PairCollator(0),
            train_dataset=data, processing_class=tokenizer,
        ).train()  # fmt: skip

    return [*(r["chosen_ids"] for r in rows), *(r["rejected_ids"] for r in rows)], run


def trained_on_replies(net: Any, tokenizer: Any, folder: Path) -> tuple[list[Any], Run]:
    config = kto(folder, trl={"max_steps": 1}, pairs_per_step=8, microbatch_pairs=8)
    rows, _ = labelled_rows(given(config, REPLIES[:8]), tokenizer, thinking=False, row_tokens=400)

    def run() -> object:
        data = Dataset.from_list([{k: v for k, v in r.items() if k != "prompt"} for r in rows])
        return StrictKTOTrainer(
            model=net, args=kto_arguments(config, folder / "c", 1), train_dataset=data,
            processing_class=tokenizer,
        ).train()  # fmt: skip

    return [[*r["prompt_ids"], *r["completion_ids"]] for r in rows], run


def measured(net: Any, tokenizer: Any, folder: Path) -> tuple[list[Any], Run]:
    pair = [{**PAIRS[0], "chosen": "a long reply of many words " * 40}]
    rows, _ = pair_rows(given(dpo(folder), pair), tokenizer, thinking=False, row_tokens=4000)
    return [rows[0]["chosen_ids"]], lambda: held_out_logps(net, rows)


@pytest.mark.parametrize("what", [trained_on_pairs, trained_on_replies, measured])
def test_the_largest_tensor_is_a_weight(
    what: Callable[..., tuple[list[Any], Run]],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """TRL's tiles are [4,096, 32,768], more than all there is here: they are made smaller, as our slices are."""
    monkeypatch.setattr(trl.trainer.utils, "_CHUNKED_LOGPROB_CHUNK_SIZE", 512)
    monkeypatch.setattr(trl.kernels.chunked_logprob, "TOKEN_CHUNK_SIZE", 64)
    monkeypatch.setattr(model.logprobs, "CPU_SCORED_LOGITS", 1 << 14)
    net = load_model(build_config(**{**SMALL, "vocab_size": VOCABULARY}), seed=5)
    rows, run = what(net, tokenizer, tmp_path)
    weight = VOCABULARY * SMALL["hidden_size"]
    assert sum(map(len, rows)) * VOCABULARY > 4 * weight  # what all logits at once would be
    with Largest() as largest:
        run()
    assert largest.size <= weight
