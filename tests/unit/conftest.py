"""A tiny byte-level tokenizer with the chat format's special tokens."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from workbench.chat import chat_template


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<unk>", "<s>", "</s>", *(f"<SPECIAL_{i}>" for i in range(3, 20))]
    raw.train_from_iterator(
        ["User Assistant System <think> </think> the total is"],
        trainers.BpeTrainer(
            vocab_size=310,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            special_tokens=special,
        ),
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=raw, unk_token="<unk>", pad_token="<unk>", eos_token="<SPECIAL_12>"
    )
    made.chat_template = chat_template()
    return made
