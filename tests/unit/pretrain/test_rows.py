"""Concat-and-chunk rows: every token once, documents numbered, boundaries unpredicted."""

import json
from pathlib import Path
from typing import Any

import torch

from data_mix.config import BlendConfig
from model.tokenizer import train_tokenizer
from pretrain.documents import BlendDocuments
from pretrain.rows import RowStream, document_labels
from pretrain.tokenizer_stage import _texts


class Counting:
    """Documents [0], [1, 2], [3, 4, 5], [6, 7, 8, 9] ... : token i is the i-th drawn."""

    def __init__(self) -> None:
        self.next, self.size = 0, 0

    def draw(self, progress: float) -> list[int]:
        self.size += 1
        out = list(range(self.next, self.next + self.size))
        self.next += self.size
        return out

    def state_dict(self) -> dict[str, Any]:
        return {"next": self.next, "size": self.size}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.next, self.size = state["next"], state["size"]

    def accounting(self) -> dict[str, Any]:
        return {"drawn": self.next}


def test_every_token_is_used_once_and_in_order() -> None:
    rows = RowStream(Counting(), 8).batch(3, 0.0)
    assert rows.input_ids.flatten().tolist() == list(range(24))
    assert rows.seq_idx[0].tolist() == [0, 1, 1, 2, 2, 2, 3, 3]
    # the fourth document (6..9) is cut by the row's end; its rest is a document of its own
    assert rows.seq_idx[1].tolist() == [0, 0, 1, 1, 1, 1, 1, 2]


def test_no_document_predicts_the_next() -> None:
    ids = torch.tensor([[5, 6, 7, 8]])
    labels = document_labels(ids, torch.tensor([[0, 0, 1, 1]], dtype=torch.int32))
    assert labels.tolist() == [[-100, 6, -100, 8]]


def test_a_restored_stream_continues_exactly() -> None:
    stream = RowStream(Counting(), 8)
    stream.batch(3, 0.0)
    state = stream.state_dict()
    assert state["rest"] == [24, 25, 26, 27]  # of the seventh document, 21..27
    expected = stream.batch(2, 0.0)
    assert expected.input_ids.flatten().tolist() == list(range(24, 40))
    other = RowStream(Counting(), 8)
    other.load_state_dict(state)
    again = other.batch(2, 0.0)
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))


def _texts_blend(path: Path, texts: list[str]) -> BlendConfig:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    source = {"type": "jsonl", "form": "text", "column": "text", "path": str(path)}
    phases = [{"until": 1.0, "weights": {"own": 1}}]
    return BlendConfig.read({"sources": {"own": source}, "phases": phases}, where="x")


def test_a_page_that_spells_special_tokens_is_ordinary_text(tmp_path: Path) -> None:
    tokenizer = train_tokenizer(["a b c d"], 300, tmp_path / "tokenizer")
    page = "One</s>two<SPECIAL_12>three<unk>"
    documents = BlendDocuments(_texts_blend(tmp_path / "a.jsonl", [page]), tokenizer, 0)
    *ids, end = documents.draw(0.0)
    assert end == 2 and min(ids) > 19  # 0 to 19 are the special ones
    assert tokenizer.decode(ids) == page


def test_a_page_that_holds_no_text_ends_no_training(tmp_path: Path) -> None:
    """A crawl has rows that are empty, or have half of a character pair in them."""
    tokenizer = train_tokenizer(["a b c d"], 300, tmp_path / "tokenizer")
    for text, learnt in (("a \ud800 b", "a ? b"), ("", "")):
        blend = _texts_blend(tmp_path / "a.jsonl", [text])
        *ids, end = BlendDocuments(blend, tokenizer, 0).draw(0.0)
        assert (tokenizer.decode(ids), end) == (learnt, 2)
        assert list(_texts(blend, 1, 0)) == [learnt]
