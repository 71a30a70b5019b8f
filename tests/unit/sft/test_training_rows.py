"""What of a conversation is trained on once it stands in a row with others."""

from pathlib import Path
from tempfile import TemporaryDirectory

from transformers import PreTrainedTokenizerFast

from sft.examples import SampleAccounting, add_stripped, to_examples, to_rows
from sft.samples import Example, TrainingRow, write_samples
from workbench.conversation import Conversation

TOOLS = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]


def rows_of(examples: list[Example], row_tokens: int, *, concatenate: bool) -> list[TrainingRow]:
    with TemporaryDirectory() as folder:
        samples = write_samples(Path(folder), [(one.domain, one.signed) for one in examples])
        rows = to_rows(
            samples, row_tokens=row_tokens, concatenate=concatenate, drop_longer=False, seed=1,
            accounting=SampleAccounting(),
        )  # fmt: skip
        return list(rows)


def test_no_sample_of_a_row_predicts_the_next_ones_first_token() -> None:
    """Even where all of a sample carries loss, as in plain text."""
    examples = [Example("d", [n, n, n], [n, n, n]) for n in (1, 2, 3)]
    (row,) = rows_of(examples, 9, concatenate=True)
    assert sorted(row["input_ids"]) == [1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert row["seq_idx"] == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert row["labels"] == [
        -100 if place % 3 == 0 else token for place, token in enumerate(row["input_ids"])
    ]


def test_samples_of_unlike_lengths_are_numbered_from_their_first_token() -> None:
    examples = [Example("d", [10 + n] * n, [10 + n] * n) for n in (1, 2, 4)]
    (row,) = rows_of(examples, 7, concatenate=True)
    for number in range(3):
        tokens = {t for t, n in zip(row["input_ids"], row["seq_idx"], strict=True) if n == number}
        (token,) = tokens
        assert row["seq_idx"].count(number) == token - 10
    alone = rows_of(examples, 7, concatenate=False)
    assert sorted(len(one["input_ids"]) for one in alone) == [1, 2, 4]
    assert all(set(one["seq_idx"]) == {0} for one in alone)


def test_of_several_turns_the_last_alone_carries_loss(tokenizer: PreTrainedTokenizerFast) -> None:
    """Older replies stand without their trace: nobody wrote them so."""
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    messages = [
        {"role": "user", "content": "add"},
        {"role": "assistant", "content": "", "reasoning_content": "use it", "tool_calls": [call]},
        {"role": "tool", "content": "42"},
        {"role": "assistant", "reasoning_content": "it says 42", "content": "forty-two"},
    ]
    (example,) = to_examples([Conversation("c", "tools", messages, tools=TOOLS)], tokenizer)
    learnt = tokenizer.decode([label for label in example.labels if label != -100])
    assert learnt == "it says 42\n</think>\n\nforty-two\n<SPECIAL_12>"


def test_stripped_copies_are_added_and_ask_for_no_reasoning(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """The paper adds them; the originals stay. A copy's closed trace is prompt, its answer is learnt."""
    whole = [
        Conversation(
            f"m-{n}", "math",
            [
                {"role": "user", "content": f"{n}+1?"},
                {"role": "assistant", "reasoning_content": f"count on from {n}", "content": f"{n + 1}"},
            ],
        )
        for n in range(10)
    ]  # fmt: skip
    made = [*whole]
    assert add_stripped(made, 0.3, seed=1) == 3
    assert made[:10] == whole
    copies = made[10:]
    assert len(copies) == 3
    for copy, example in zip(copies, to_examples(copies, tokenizer), strict=True):
        (original,) = [c for c in whole if copy.id == f"{c.id}-no-think"]
        assert copy.reply == {"role": "assistant", "content": original.reply["content"]}
        assert (copy.thinking, copy.prompt) == (False, original.prompt)
        learnt = tokenizer.decode([label for label in example.labels if label != -100])
        assert learnt == f"{original.reply['content']}\n<SPECIAL_12>"
        assert "count on" not in tokenizer.decode(example.input_ids)
