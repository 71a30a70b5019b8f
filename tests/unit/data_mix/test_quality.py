"""Quality: ridge by its normal equations, AUC by counting pairs, hosts held out, one-class ratings refused."""

from itertools import product
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

from data_mix.quality import stage
from data_mix.quality.classifier import features_of, load, ridge, train
from data_mix.quality.config import ClassifierConfig, HubClassifierConfig, QualityConfig
from data_mix.quality.measures import auc, measures
from data_mix.quality.scorers import open_scorer
from data_mix.quality.stage import is_held_out
from data_mix.shards import Item, Kept, ShardFacts, ShardWriter
from workbench.errors import UserError

GOOD = [
    "theorem",
    "proof",
    "lemma",
    "integral",
    "matrix",
    "vector",
    "converges",
    "bounded",
    "hence",
    "therefore",
]
BAD = [
    "buy",
    "cheap",
    "discount",
    "shipping",
    "cart",
    "login",
    "cookie",
    "subscribe",
    "banner",
    "click",
]
PLAIN = ["the", "of", "a", "with", "page", "text", "some", "more", "here", "there", "this", "that"]


def page(rating: int, rng: Random, host: int) -> str:
    """Twelve words of the rating's own vocabulary to its share, the rest plain, and the host's own word."""
    good = [rng.choice(GOOD) for _ in range(3 * rating)]
    bad = [rng.choice(BAD) for _ in range(3 * (5 - rating))]
    said = [*good, *bad, *(rng.choice(PLAIN) for _ in range(30)), *[f"host{host}"] * 5]
    rng.shuffle(said)
    return " ".join(said)


def rated(count: int, hosts: int = 40) -> tuple[list[str], list[float], list[str]]:
    rng = Random(1)
    texts, ratings, names = [], [], []
    for n in range(count):
        host, rating = n % hosts, rng.randrange(6)
        texts.append(page(rating, rng, host))
        # The rater errs by one now and then.
        ratings.append(float(min(5, max(0, rating + rng.choice((-1, 0, 0, 0, 1))))))
        names.append(f"host{host}")
    return texts, ratings, names


def test_conjugate_gradients_solve_the_normal_equations() -> None:
    texts, ratings, _ = rated(60)
    found = features_of(texts, 512)
    dense = np.zeros((60, 513))
    for row in range(60):
        part = slice(found.starts[row], found.starts[row + 1])
        dense[row, found.indices[part]] = found.values[part]
    penalty = np.full(513, 0.5)
    penalty[-1] = 1e-9
    exact = np.linalg.solve(dense.T @ dense + np.diag(penalty), dense.T @ np.array(ratings))
    assert ridge(found, np.array(ratings), 0.5) == pytest.approx(exact, abs=1e-5)
    # Each text has length 1 before the constant.
    assert np.linalg.norm(dense[:, :-1], axis=1) == pytest.approx(np.ones(60))


def test_auc_is_the_share_of_pairs_in_order() -> None:
    rng = Random(2)
    scores = [round(rng.random(), 1) for _ in range(80)]
    labels = [rng.random() < s for s in scores]
    pairs = list(
        product(
            [s for s, y in zip(scores, labels, strict=True) if y],
            [s for s, y in zip(scores, labels, strict=True) if not y],
        )
    )
    by_hand = sum((a > b) + 0.5 * (a == b) for a, b in pairs) / len(pairs)
    assert auc(scores, labels) == pytest.approx(by_hand)
    assert np.isnan(auc([1.0, 2.0], [True, True]))


def test_held_out_hosts_are_scored_well_and_calibrated() -> None:
    texts, ratings, hosts = rated(600)
    apart = [is_held_out(host, 0.25) for host in hosts]
    inside = [n for n, out in enumerate(apart) if not out]
    outside = [n for n, out in enumerate(apart) if out]
    assert not {hosts[n] for n in inside} & {hosts[n] for n in outside}
    made = train(
        [texts[n] for n in inside], [ratings[n] for n in inside], buckets=2**14, penalty=0.1
    )
    scores = made.score([texts[n] for n in outside]).tolist()
    found = measures(
        scores, [ratings[n] for n in outside], [hosts[n] for n in outside], 3.0, seed=1
    )
    assert found["auc"]["value"] > 0.95 and found["within_one"]["value"] > 0.9
    assert found["auc"]["ci95"][0] < found["auc"]["value"] <= found["auc"]["ci95"][1]
    for bin_of in found["calibration"].values():
        assert abs(bin_of["score"] - bin_of["rating"]["value"]) < 0.6
    # Ratings that say nothing give an AUC of a coin.
    rng = Random(3)
    noise = [float(rng.randrange(6)) for _ in texts]
    blind = train(
        [texts[n] for n in inside], [noise[n] for n in inside], buckets=2**14, penalty=0.1
    )
    said = measures(
        blind.score([texts[n] for n in outside]).tolist(),
        [noise[n] for n in outside],
        [hosts[n] for n in outside],
        3.0,
        seed=1,
    )
    assert said["auc"]["ci95"][0] < 0.5 < said["auc"]["ci95"][1]


def test_a_classifier_is_written_and_read_back(tmp_path: Path) -> None:
    texts, ratings, _ = rated(80)
    made = train(texts, ratings, buckets=2**12, penalty=0.1)
    made.save(tmp_path, {"texts": 80})
    again = open_scorer(ClassifierConfig(stage=str(tmp_path)))
    assert list(again.score(texts)) == pytest.approx(made.score(texts).tolist(), abs=1e-4)
    assert all(0 <= score <= 5 for score in again.score(["", "buy " * 1000, "theorem " * 1000]))


@pytest.mark.parametrize(("ratings", "words"), [([2.0] * 20, "one class"), ([], "there are none")])
def test_one_class_is_refused(ratings: list[float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        train(["a b c"] * len(ratings), ratings, buckets=2**10, penalty=0.1)


def test_no_classifier_and_half_of_one_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="name a stage of kind quality"):
        load(tmp_path)
    (tmp_path / "classifier.npz").write_bytes(b"PK half")
    with pytest.raises(UserError, match="is not a classifier"):
        load(tmp_path)


@pytest.mark.parametrize("outputs", [1, 3])
def test_a_hugging_face_classifier_gives_its_output_or_a_labels_probability(
    outputs: int, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, num_labels=outputs, max_position_embeddings=64, pad_token_id=0,
    )  # fmt: skip
    model: Any = BertForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    texts = ["one", "a rather longer text than the other", "two"]
    scorer = open_scorer(
        HubClassifierConfig(
            type="hub", checkpoint=str(tmp_path), label=outputs - 1, max_tokens=64, batch=2
        )
    )
    expected = []
    for text in texts:
        with torch.no_grad():
            logits = model(
                **tokenizer(text, return_tensors="pt", truncation=True, max_length=64)
            ).logits[0]
        expected.append(float(logits[0] if outputs == 1 else logits.softmax(-1)[-1]))
    assert list(scorer.score(texts)) == pytest.approx(expected, abs=1e-5)
    with pytest.raises(UserError, match="has .* outputs"):
        open_scorer(HubClassifierConfig(type="hub", checkpoint=str(tmp_path), label=3))


def test_a_missing_hub_classifier_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="classifier") as error:
        open_scorer(HubClassifierConfig(type="hub", checkpoint=str(tmp_path / "nothing")))
    assert "\n" not in str(error.value)


def test_the_stage_measures_on_hosts_that_it_did_not_train_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was given to `train` first has no host of those that are measured."""
    texts, ratings, hosts = rated(200)
    columns = {"id": "text", "text": "text", "score": "number", "host": "text"}
    writer = ShardWriter(tmp_path / "rated", ShardFacts(0), columns)
    for n, (text, rating, host) in enumerate(zip(texts, ratings, hosts, strict=True)):
        row = {"id": str(n), "text": text, "score": rating, "host": host}
        writer.put(Item(n, row), Kept([row]))
    writer.close()
    given: list[list[str]] = []
    whole = stage.train

    def watched(own: list[str], labels: list[float], **settings: Any) -> Any:
        given.append(own)
        return whole(own, labels, **settings)

    monkeypatch.setattr(stage, "train", watched)
    stages = {"quality": {"kind": "quality", "ratings": "rated", "needs": [], "buckets": 1024}}
    config = QualityConfig.read(stages["quality"], where="")
    context = SimpleNamespace(
        config=config, inputs={"rated": tmp_path / "rated"}, seed=1, stage_dir=tmp_path / "q",
        note=lambda **found: None,
    )  # fmt: skip
    stage.run(context)  # type: ignore[arg-type]
    trained = {hosts[texts.index(text)] for text in given[0]}
    assert trained and not any(is_held_out(host, 0.2) for host in trained)
    assert len(given[1]) == 200
