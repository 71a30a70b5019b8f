"""Mixing by tokens: shares, phases, exact resumption, and the errors of a wrong blend."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data_mix.config import BlendConfig
from data_mix.documents import Document, text_of
from data_mix.mixing import Mixer
from workbench.errors import UserError


def _lengths_file(path: Path, word: str, lengths: Sequence[int]) -> str:
    """A JSONL file of texts of the given numbers of words."""
    path.write_text("".join(json.dumps({"text": " ".join([word] * n)}) + "\n" for n in lengths))
    return str(path)


def _words(document: Document) -> list[int]:
    return [sum(word.encode()) for word in text_of(document).split()]


def _blend(tmp_path: Path, phases: list[dict[str, Any]]) -> BlendConfig:
    files = {
        "long": _lengths_file(tmp_path / "long.jsonl", "l", [40, 50, 60]),
        "short": _lengths_file(tmp_path / "short.jsonl", "s", [1, 2, 3, 4]),
    }
    sources = {
        name: {"type": "jsonl", "path": path, "form": "text", "column": "text"}
        for name, path in files.items()
    }
    return BlendConfig.read({"sources": sources, "phases": phases}, where="blend")


def test_token_shares_follow_the_weights_whatever_the_lengths(tmp_path: Path) -> None:
    """The error of a share stays below one document (60) of all tokens drawn [derived]."""
    blend = _blend(tmp_path, [{"until": 1.0, "weights": {"long": 30, "short": 70}}])
    mixer = Mixer(blend, tokenize=_words, seed=0)
    drawn = [mixer.draw(0.0) for _ in range(2000)]
    counts = mixer.accounting()["phases"][0]
    assert counts["tokens"] == sum(map(len, drawn))
    assert sum(s["samples"] for s in counts["sources"].values()) == 2000
    for source in counts["sources"].values():
        assert abs(source["tokens"] - source["weight"] * counts["tokens"]) <= 60


def test_draws_are_those_of_a_hand_computed_sequence(tmp_path: Path) -> None:
    """Weights 1/2 and 1/2: the long source first, then short ones until they have caught up."""
    blend = _blend(tmp_path, [{"until": 1.0, "weights": {"long": 0.5, "short": 0.5}}])
    mixer = Mixer(blend, tokenize=_words, seed=0)
    first = mixer.draw(0.0)
    length = len(first)
    assert set(first) == {ord("l")}
    caught_up = 0
    while caught_up < length:
        tokens = mixer.draw(0.0)
        assert set(tokens) == {ord("s")}
        caught_up += len(tokens)


def test_each_phase_uses_and_counts_its_own_weights(tmp_path: Path) -> None:
    phases = [
        {"until": 0.6, "weights": {"long": 1.0}},
        {"until": 0.9, "weights": {"short": 1.0}},
        {"until": 1.0, "weights": {"long": 0.5, "short": 0.5}},
    ]
    mixer = Mixer(_blend(tmp_path, phases), tokenize=_words, seed=0)
    for progress in (0.0, 0.5999, 0.6, 0.8999, 0.9, 1.0):
        mixer.draw(progress)
    counted = mixer.accounting()["phases"]
    by_phase = [{n: s["samples"] for n, s in p["sources"].items()} for p in counted]
    assert by_phase == [{"long": 2}, {"short": 2}, {"long": 1, "short": 1}]


@pytest.mark.parametrize("cut", [1, 7, 50])
def test_resuming_continues_exactly(tmp_path: Path, cut: int) -> None:
    phases = [
        {"until": 0.5, "weights": {"long": 0.5, "short": 0.5}},
        {"until": 1.0, "weights": {"long": 0.2, "short": 0.8}},
    ]
    blend = _blend(tmp_path, phases)
    whole = Mixer(blend, tokenize=_words, seed=3)
    expected = [list(whole.draw(i / 100)) for i in range(100)]
    first = Mixer(blend, tokenize=_words, seed=3)
    for i in range(cut):
        first.draw(i / 100)
    saved = json.loads(json.dumps(first.state_dict()))
    second = Mixer(blend, tokenize=_words, seed=3)
    second.load_state_dict(saved)
    assert [list(second.draw(i / 100)) for i in range(cut, 100)] == expected[cut:]
    assert second.accounting() == whole.accounting()


def test_a_state_of_another_blend_is_refused(tmp_path: Path) -> None:
    one = _blend(tmp_path, [{"until": 1.0, "weights": {"long": 1.0}}])
    two = _blend(tmp_path, [{"until": 1.0, "weights": {"short": 1.0}}])
    state = Mixer(one, tokenize=_words, seed=0).state_dict()
    with pytest.raises(UserError, match="the saved blend has sources"):
        Mixer(two, tokenize=_words, seed=0).load_state_dict(state)


_WORLD = {"a": {"type": "world"}, "b": {"type": "pretraining", "category": "math"}}


@pytest.mark.parametrize(
    ("blend", "message"),
    [
        ({"sources": _WORLD, "phases": [{"until": 1, "weights": {"a": 1.2, "b": -0.2}}]},
         "weight of 'b' is -0.2"),
        ({"sources": _WORLD, "phases": [{"until": 1, "weights": {"a": 0.5, "b": 0.4}}]},
         "weights sum to 0.9"),
        ({"sources": _WORLD, "phases": [{"until": 1, "weights": {"a": 0.5, "bb": 0.5}}]},
         "unknown source in weights 'bb'; did you mean 'b'"),
        ({"sources": _WORLD, "phases": [{"until": 0.9, "weights": {"a": 1}}]},
         "the last must be 1.0"),
        ({"sources": _WORLD, "phases": [{"until": 1, "weights": {"a": float("nan")}}]},
         "got nan"),
        ({"sources": {"a": {"type": "world", "domain": "maths"}},
          "phases": [{"until": 1, "weights": {"a": 1}}]}, "did you mean 'math'"),
        ({"sources": {"a": {"type": "pretraining", "category": "maths"}},
          "phases": [{"until": 1, "weights": {"a": 1}}]}, "did you mean 'math'"),
        ({"sources": {"a": {"type": "hub", "id": "x/y", "clean": {"dedup": "near"}}},
          "phases": [{"until": 1, "weights": {"a": 1}}]}, "cannot be deduplicated"),
    ],
)  # fmt: skip
def test_a_wrong_blend_is_one_line_with_the_fix(blend: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        BlendConfig.read(blend, where="stages.pretrain.blend")
    assert "\n" not in str(caught.value)


def test_weights_may_be_percent() -> None:
    weights = {"a": 25, "b": 75}
    read = BlendConfig.read(
        {"sources": _WORLD, "phases": [{"until": 1, "weights": weights}]}, where="blend"
    )
    assert read.phases[0].weights == {"a": 0.25, "b": 0.75}
