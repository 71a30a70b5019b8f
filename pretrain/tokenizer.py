"""Train a tokenizer: byte-level BPE, one token a digit, the chat format's special ids."""

from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from workbench.chat import chat_template
from workbench.errors import UserError

# Ids 0..19, so that <SPECIAL_10> is id 10 as in the released tokenizer. The pad is <unk>.
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", *(f"<SPECIAL_{i}>" for i in range(3, 20)))
END_OF_TURN = "<SPECIAL_12>"


def train_tokenizer(texts: Iterable[str], vocab_size: int, path: Path) -> PreTrainedTokenizerFast:
    """Learn `vocab_size` tokens (special ones included), save the tokenizer in folder `path`.

    eos is <SPECIAL_12>, which ends an assistant's turn. Text that spells a special token is split
    like any other text by callers that encode with `split_special_tokens=True` (workbench.chat).

    Raises: UserError where the vocabulary cannot even hold the special tokens and the 256 bytes.
    """
    smallest = len(SPECIAL_TOKENS) + 256
    if vocab_size < smallest:
        raise UserError(
            f"vocab_size {vocab_size} is too small: {len(SPECIAL_TOKENS)} special tokens and 256 "
            f"bytes need {smallest}"
        )
    # byte_fallback is not needed: every byte is a token.
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    # One token a digit: sums line up, and numbers never seen are spelled like the others.
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        pad_token="<unk>",
        bos_token="<s>",
        eos_token=END_OF_TURN,
        additional_special_tokens=list(SPECIAL_TOKENS[3:]),
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = chat_template()
    wrapped.save_pretrained(path)
    return wrapped
