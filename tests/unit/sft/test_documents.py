"""Which document each token of a row belongs to, and in which mode a stripped copy is learnt."""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from transformers import PreTrainedTokenizerFast

from sft.config import SftConfig
from sft.examples import SampleAccounting, add_stripped, to_examples, to_rows
from sft.samples import Example, TrainingRow, write_samples
from sft.stage import build_rows
from sft.trainer import RowCollator
from workbench.chat import prompt_ids
from workbench.conversation import Conversation

PROMPT = {"role": "user", "content": "1+2+3?"}


def documents(ids: Sequence[int], numbers: Sequence[int]) -> list[list[int]]:
    """The row's tokens by document number, which must rise one by one from 0."""
    assert sorted(set(numbers)) == list(range(max(numbers) + 1)) and list(numbers) == sorted(
        numbers
    )
    return [
        [i for i, number in zip(ids, numbers, strict=True) if number == wanted]
        for wanted in range(max(numbers) + 1)
    ]


def rows_of(examples: Sequence[Example], *, concatenate: bool) -> list[TrainingRow]:
    with TemporaryDirectory() as folder:
        samples = write_samples(Path(folder), [(one.domain, one.signed) for one in examples])
        rows = to_rows(
            samples, row_tokens=8, concatenate=concatenate, drop_longer=False, seed=1,
            accounting=SampleAccounting(),
        )  # fmt: skip
        return list(rows)


@pytest.mark.parametrize("concatenate", [True, False])
def test_each_sample_of_a_row_is_one_document_from_its_first_token_on(concatenate: bool) -> None:
    """Every sample has tokens of its own, so a boundary that is one token off is seen."""
    sizes = (1, 2, 3, 5, 7, 8, 4, 2)
    examples = [
        Example("d", ids, ids)
        for n, size in enumerate(sizes, start=1)
        for ids in [list(range(100 * n, 100 * n + size))]
    ]
    rows = rows_of(examples, concatenate=concatenate)
    assert (len(rows) < len(sizes)) is concatenate
    found = [d for row in rows for d in documents(row["input_ids"], row["seq_idx"])]
    assert sorted(found) == [e.input_ids for e in examples]
    # No document's first token is learnt from the one before it, and every other token is.
    for row in rows:
        numbers = row["seq_idx"]
        firsts = [n == 0 or numbers[n] != numbers[n - 1] for n in range(len(numbers))]
        assert [label == -100 for label in row["labels"]] == firsts


def test_packed_rows_of_a_recipe_reach_the_model_sample_by_sample(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    """From `concatenate: true` to the batch: ids, numbers and positions, padding apart."""
    part = {"source": {"type": "world", "domain": "math"}, "samples": 12}
    body = {"kind": "sft", "needs": ["p"], "parts": {"world": part}, "row_tokens": 512}
    plain, _, _ = build_rows(
        SftConfig.model_validate(body | {"concatenate": False}), tokenizer, 3, tmp_path / "plain"
    )
    packed, _, _ = build_rows(
        SftConfig.model_validate(body | {"concatenate": True}), tokenizer, 3, tmp_path / "packed"
    )
    assert len(packed) < len(plain) == 12
    batch = RowCollator(pad_token_id=0)([*packed])
    found = []
    for n, row in enumerate(packed):
        ids, numbers = batch["input_ids"][n].tolist(), batch["seq_idx"][n].tolist()
        size = len(row["input_ids"])
        whole = documents(ids, numbers)
        if size < len(ids):
            assert whole.pop() == [0] * (len(ids) - size)  # padding is a document of its own
        found += whole
        positions = iter(batch["position_ids"][n].tolist())
        for document in whole:
            assert [next(positions) for _ in document] == list(range(len(document)))
    assert sorted(found) == sorted(r["input_ids"] for r in plain)


def test_a_stripped_copy_is_learnt_with_reasoning_off(tokenizer: PreTrainedTokenizerFast) -> None:
    whole = Conversation(
        "m-1", "math",
        [PROMPT, {"role": "assistant", "reasoning_content": "1+2=3", "content": "6"}],
    )  # fmt: skip
    conversations = [whole]
    add_stripped(conversations, 1.0, seed=1)
    first, copy = conversations
    assert first == whole and copy.id == "m-1-no-think" and copy.thinking is False
    assert copy.reply == {"role": "assistant", "content": "6"}
    (example,) = to_examples([copy], tokenizer)
    prompt = prompt_ids([PROMPT], thinking=False, tokenizer=tokenizer)
    assert tokenizer.decode(prompt).endswith("<think></think>")
    assert example.input_ids[: len(prompt)] == prompt
    learnt = [label for label in example.labels if label != -100]
    assert tokenizer.decode(learnt) == "6\n<SPECIAL_12>"
