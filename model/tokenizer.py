"""Train a tokenizer: byte-level BPE, one token a digit, the chat format's special ids."""

import json
import logging
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from model.checkpoint import reading
from workbench.chat import chat_template, format_of
from workbench.errors import UserError, reason_of
from workbench.hub import must_answer

_log = logging.getLogger(__name__)
# Ids 0..19, so that <SPECIAL_10> is id 10 as in the released tokenizer. The pad is <unk>.
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", *(f"<SPECIAL_{i}>" for i in range(3, 20)))
END_OF_TURN = "<SPECIAL_12>"


def take_tokenizer(name: str, path: Path, revision: str | None = None) -> PreTrainedTokenizerBase:
    """Save the tokenizer of a model (a folder, or a hub id at a commit) in `path`.

    One with the chat format's tokens gets its template, as base models ship without. Raises:
    UserError where it cannot be read, or has no format of its own either.
    """
    if not Path(name).is_dir():
        must_answer(f"tokenizer {name!r}", "download it and give its folder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            name, revision=revision or "main", trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise UserError(f"tokenizer {name!r} cannot be read ({reason_of(error, 200)})") from None
    if format_of(tokenizer) == "nano-v2" and not tokenizer.chat_template:
        tokenizer.chat_template = chat_template()
    tokenizer.save_pretrained(path)
    return tokenizer


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


def read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint folder.

    Special tokens may lie beyond the model's vocabulary (Gemma 3's text models share the tokenizer of those that
    see): that is logged. Raises: UserError where it cannot be read or has other ids that the model beside it has
    not.
    """
    if not folder.is_dir():
        raise UserError(f"no tokenizer at {folder}: the folder is not there")
    with reading(folder):
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=False
        )
    config = folder / "config.json"
    with reading(folder):
        size = json.loads(config.read_text()).get("vocab_size") if config.is_file() else None
    if isinstance(size, int) and len(tokenizer) > size:
        _check_beyond(tokenizer, size, folder)
    return tokenizer


def _check_beyond(tokenizer: PreTrainedTokenizerBase, size: int, folder: Path) -> None:
    """Raises: UserError where a token that is not special, or that a chat is written with, has an id of `size` or
    more."""
    beyond = {word: i for word, i in tokenizer.get_vocab().items() if i >= size}
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    ends = (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token)
    used = [word for word in beyond if word in ends or word in str(tokenizer.chat_template)]
    if used or not special.issuperset(beyond.values()):
        raise UserError(
            f"the tokenizer in {folder} has {len(tokenizer):,} ids, the model beside it {size:,}; "
            "they are not of one another"
        )
    _log.warning(
        "the tokenizer in %s has special tokens that the model beside it does not know (%s): no chat may hold them",
        folder, ", ".join(sorted(beyond)),
    )  # fmt: skip
