"""Our engine as a model of lm-eval's, with an engine whose numbers are known: what is asked, what is summed."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from engine.protocol import Completion, Request
from evals.harness.answers import Answers

pytest.importorskip("sacrebleu", reason="scripts/setup.sh evals installs what lm-eval imports")


class _Known:
    """Token t after any other has log-probability -t / 8 and rank 1 where t is even."""

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def stream(self, requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        for place, request in reversed(list(enumerate(requests))):
            self.asked.append(request)
            ids = list(request.prompt)[1:]
            yield (
                place,
                Completion(
                    token_ids=[0],
                    logprobs=[],
                    text="one. two\n\nthree",
                    finish_reason="length",
                    prompt_logprobs=[-t / 8 for t in ids],
                    prompt_ranks=[1 if t % 2 == 0 else 2 for t in ids],
                ),
            )


class _Letters:
    """A token a letter; 1 begins a text, 2 ends it."""

    bos_token, bos_token_id, eos_token_id = "^", 1, 2

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        begun = [1] if add_special_tokens else []
        return begun + [1 if x == "^" else ord(x) for x in text]


def _made(tmp_path: Path, context: int = 64) -> tuple[Any, _Known, list[int]]:
    from evals.harness.model import EngineLM

    engine, longest = _Known(), list[int]()

    def start(length: int) -> _Known:
        longest.append(length)
        return engine

    answers, tokenizer, begin = Answers(tmp_path), _Letters(), cast(Any, start)
    lm = EngineLM(tokenizer, begin, context=context, identity="m", answers=answers)
    return lm, engine, longest


def _asked(*pairs: tuple[Any, Any]) -> list[Any]:
    return [SimpleNamespace(args=pair) for pair in pairs]


def test_only_the_continuation_is_summed(tmp_path: Path) -> None:
    lm, engine, longest = _made(tmp_path)
    found = lm.loglikelihood(_asked(("Q:", " b"), ("Q:", " a"), ("Q: ", "b"), ("Q:", " b")))
    space, a, b = 32, 97, 98
    expected = [
        (-(space + b) / 8, True),  # both even: greedy
        (-(space + a) / 8, False),
        (-(space + b) / 8, True),  # a space at the context's end belongs to the continuation
        (-(space + b) / 8, True),
    ]
    assert found == expected
    assert [list(r.prompt) for r in engine.asked] == [
        [1, ord("Q"), ord(":"), space, a],
        [1, ord("Q"), ord(":"), space, b],
    ]  # the same text is asked once
    assert longest == [6] and engine.asked[0].sampling.prompt_logprobs
    assert lm.loglikelihood(_asked(("Q:", " b"))) == expected[:1] and len(engine.asked) == 2


def test_an_empty_context_is_the_beginning_and_a_begun_text_is_not_begun_twice(
    tmp_path: Path,
) -> None:
    lm, engine, _ = _made(tmp_path)
    lm.loglikelihood(_asked(("", "b"), ("^Q", "b")))
    assert sorted(list(r.prompt) for r in engine.asked) == [[1, 81, 98], [1, 98]]


def test_a_context_that_is_too_long_loses_its_beginning_and_is_counted(tmp_path: Path) -> None:
    lm, engine, _ = _made(tmp_path, context=8)
    (found,) = lm.loglikelihood(_asked(("abcdefghij", "bb")))
    assert list(engine.asked[0].prompt) == [ord(x) for x in "fghijbb"]  # 7, and one to make
    assert found == (-(98 + 98) / 8, True) and lm.num_cut == 1


def test_rolling_scores_every_token_once(tmp_path: Path) -> None:
    lm, _, _ = _made(tmp_path, context=8)
    text = "abcdefghijkl"
    (found,) = lm.loglikelihood_rolling(_asked((text, None)))
    assert found == pytest.approx(-sum(lm.tok_encode(text)) / 8)


def test_texts_are_cut_at_the_first_stop(tmp_path: Path) -> None:
    lm, engine, _ = _made(tmp_path)
    options = {"until": ["\n\n", "."], "max_gen_toks": 9, "do_sample": False, "temperature": 0.7}
    found = lm.generate_until(_asked(("Q", options), ("R", {"until": "two"}), ("S", {"until": []})))
    assert found == ["one", "one. ", "one. two\n\nthree"]
    by_first = {list(r.prompt)[-1]: r.sampling for r in engine.asked}
    assert (by_first[ord("Q")].max_tokens, by_first[ord("Q")].temperature) == (9, 0.0)
    assert by_first[ord("R")].max_tokens == 32  # 256, had the context room
    assert [list(r.prompt) for r in engine.asked][-1] == [1, ord("Q")]


def test_what_the_engine_fails_is_named(tmp_path: Path) -> None:
    from dataclasses import replace

    lm, engine, _ = _made(tmp_path)
    whole = engine.stream

    def failing(requests: Sequence[Request]) -> Iterator[tuple[int, Completion]]:
        for place, completion in whole(requests):
            yield place, replace(completion, finish_reason="error", error="lost")

    engine.stream = failing  # type: ignore[method-assign]
    ((value, greedy),) = lm.loglikelihood(_asked(("Q:", " b")))
    assert value != value and not greedy and lm.failed == {"Q:": "lost"}
