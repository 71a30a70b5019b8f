"""Duplicates and contamination, against brute force and hand-made cases."""

from random import Random

import numpy as np
import pytest

from data_mix.decontaminate import Decontaminator
from data_mix.dedup import MinHash, NearDuplicates, exact_key, shingles, unique

WORDS = [f"w{n}" for n in range(300)]


def _text(rng: Random, length: int = 120) -> str:
    return " ".join(rng.choice(WORDS) for _ in range(length))


def _with_changes(rng: Random, text: str, count: int) -> str:
    words = text.split()
    for place in rng.sample(range(len(words)), count):
        words[place] = "changed"
    return " ".join(words)


def _jaccard(a: str, b: str) -> float:
    one, two = shingles(a), shingles(b)
    return len(one & two) / len(one | two)


def test_minhash_estimates_the_exact_jaccard_similarity() -> None:
    """Within 4 standard errors of 128 permutations, and unbiased over 60 pairs [derived]."""
    rng, minhash, errors = Random(0), MinHash(), []
    for _ in range(60):
        text = _text(rng)
        other = _with_changes(rng, text, rng.randint(1, 12))
        true = _jaccard(text, other)
        estimate = float(np.mean(minhash.signature(text) == minhash.signature(other)))
        assert abs(estimate - true) < 4 * (true * (1 - true) / 128) ** 0.5 + 1e-9
        errors.append(estimate - true)
    assert abs(float(np.mean(errors))) < 0.02


def test_near_duplicates_are_those_of_brute_force_away_from_the_threshold() -> None:
    rng = Random(1)
    originals = [_text(rng) for _ in range(40)]
    near = NearDuplicates(similarity=0.7)
    assert all(near.is_new(text) for text in originals)
    for text in originals:
        close, far = _with_changes(rng, text, 1), _with_changes(rng, text, 30)
        assert _jaccard(text, close) > 0.85
        assert _jaccard(text, far) < 0.4
        assert not near.is_new(close)
        assert near.is_new(far)


def test_texts_with_lone_surrogates_are_compared() -> None:
    texts = ["a \ud800 b", "a \udfff b", "a \ud800 b"]
    assert list(unique(texts)) == [0, 1]
    assert list(unique(["word\ud800" * 9, "word\ud800" * 9 + "."], near=0.8)) == [0]


def test_the_first_of_equal_texts_is_kept() -> None:
    texts = ["The cat", "a dog", "the   CAT", "a dog", "a bird"]
    assert list(unique(texts)) == [0, 1, 4]
    assert exact_key("The cat") != exact_key("Thecat")


@pytest.mark.parametrize(
    ("text", "hit"),
    [
        ("He asked: WHAT is the capital of -- France, today?", True),
        ("what is the capital of peru", False),  # five words in a row, not six
        ("a capital of france is what the", False),
        ("so then: red blue", False),  # a prompt of two words counts only as all that is asked
        ("Red - blue!", True),
        ("red green blue", False),
        ("", False),
    ],
)
def test_contamination_is_a_shared_run_of_words(text: str, hit: bool) -> None:
    guard = Decontaminator(["What is the capital of France?", "red, blue"], ngram_words=6)
    assert guard.is_contaminated(text) is hit


def test_the_threshold_decides() -> None:
    """120 words with 5 changed far apart: 25 of 116 shingles differ on each side, so the similarity is
    91 / 141 = 0.645, 3.4 standard errors from both thresholds [derived]."""
    text = " ".join(f"w{n}" for n in range(120))
    words = text.split()
    for place in (10, 34, 58, 82, 106):
        words[place] = "changed"
    other = " ".join(words)
    assert _jaccard(text, other) == pytest.approx(91 / 141)
    assert list(unique([text, other], near=0.5)) == [0]
    assert list(unique([text, other], near=0.79)) == [0, 1]
    assert list(unique([text, other])) == [0, 1]


@pytest.mark.parametrize(
    ("alphabet", "blank", "run", "whole"),
    [("abc", " ", 13, 8), ("数学是", "", 22, 14)],
    ids=["words of 1", "characters of 12 twentieths"],
)
def test_contamination_is_that_of_brute_force(
    alphabet: str, blank: str, run: int, whole: int
) -> None:
    """Short prompts begin alike, so that many have the same first run."""
    rng = Random(4)
    drawn = lambda n: [rng.choice(alphabet) for _ in range(n)]  # noqa: E731 - six words
    head = drawn(whole)
    prompts = [head + drawn(rng.randrange(run - whole)) for _ in range(12)] + [drawn(run + 4)]
    guard = Decontaminator([blank.join(p) for p in prompts], ngram_words=13)
    parts = [p if len(p) < run else p[at : at + run] for p in prompts for at in range(len(p))]
    found = []
    for _ in range(200):
        hidden = rng.choice([head, rng.choice(prompts), []])[: rng.choice([whole, 2 * run])]
        text = drawn(9) + hidden + drawn(rng.choice([0, 9]))
        places = range(len(text))
        known = [part for part in parts if len(part) == run or part in prompts]
        found.append(any(text[at : at + len(part)] == part for part in known for at in places))
        assert guard.is_contaminated(blank.join(text)) is found[-1]
    assert 50 < sum(found) < 190
