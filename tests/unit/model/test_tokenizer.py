"""The trained tokenizer: special ids, digits, and a lossless round trip."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from model.tokenizer import read_tokenizer, train_tokenizer
from workbench.errors import UserError

TEXTS = ["the river is long and the moon is far 12+34=46", "def f(x):\n    return x * 2"] * 20


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(TEXTS, 320, folder)
    loaded: PreTrainedTokenizerFast = AutoTokenizer.from_pretrained(folder)
    return loaded


def test_special_ids_are_those_of_the_released_tokenizer(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """<unk>=0 (also pad), <s>=1, </s>=2, <SPECIAL_n>=n; a turn ends with <SPECIAL_12>."""
    names = ["<unk>", "<s>", "</s>", "<SPECIAL_3>", "<SPECIAL_10>", "<SPECIAL_19>"]
    assert tokenizer.convert_tokens_to_ids(names) == [0, 1, 2, 3, 10, 19]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 12)
    assert tokenizer.encode("<SPECIAL_10>", add_special_tokens=False) == [10]
    assert tokenizer.chat_template


@pytest.mark.parametrize(
    "text", ["12+345=357", " 7 ", "naïve 東京 \U0001f600\n\n x", "a  b\tc", ""]
)
def test_any_text_survives_a_round_trip(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert tokenizer.decode(ids) == text
    assert 0 not in ids


def test_every_digit_is_a_token_of_its_own(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("12+34=46") == ["1", "2", "+", "3", "4", "=", "4", "6"]


def test_a_vocabulary_without_room_for_the_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="need 276"):
        train_tokenizer(TEXTS, 275, tmp_path)


def test_special_tokens_alone_may_lie_beyond_the_models_vocabulary(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Gemma 3's text models have 262,144 words and a tokenizer whose <image_soft_token> is number 262,144."""
    made = train_tokenizer(TEXTS, 320, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"vocab_size": len(made)}))
    made.add_special_tokens({"extra_special_tokens": ["<image_soft_token>"]})
    made.save_pretrained(tmp_path)
    assert read_tokenizer(tmp_path).convert_tokens_to_ids("<image_soft_token>") == len(made) - 1
    assert "does not know (<image_soft_token>)" in caplog.text
    made.add_tokens(["word"])
    made.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="they are not of one another"):
        read_tokenizer(tmp_path)
