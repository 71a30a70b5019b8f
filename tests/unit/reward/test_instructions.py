"""IFEval instructions: all 25 kinds, modes, statuses."""

import json
from typing import Any

import pytest

from reward import check
from workbench.errors import UserError

# instruction, kwargs, a reply that follows it, one that does not [by hand].
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("keywords:existence", {"keywords": ["sun", "rain"]}, "sun and rain", "sun"),
    (
        "keywords:frequency",
        {"keyword": "sun", "frequency": 2, "relation": "at least"},
        "sun, sun",
        "sun",
    ),
    ("keywords:forbidden_words", {"forbidden_words": ["sun"]}, "rain", "the sun"),
    (
        "keywords:letter_frequency",
        {"letter": "z", "let_frequency": 2, "let_relation": "at least"},
        "zz",
        "z",
    ),
    (
        "language:response_language",
        {"language": "de"},
        "Das ist ein ganz gewöhnlicher deutscher Satz über das Wetter.",
        "This is a quite ordinary English sentence about the weather.",
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 3, "relation": "less than"},
        "Dr. Smith came. He left.",
        "One came. Two came. Three came.",
    ),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "a\n***\nb", "a"),
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": "at least"},
        "one two three",
        "one two",
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
        "First.\n\nThen more.",
        "First.\n\nLater more.",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "[a] [b]", "[a]"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Hi.\nP.S. Bye.", "Hi."),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* a\n* b", "* a"),
    ("detectable_format:constrained_response", {}, "My answer is yes.", "Perhaps."),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 1}, "*this* one", "none"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        "SECTION 1\na\nSECTION 2\nb",
        "SECTION 1\na",
    ),
    ("detectable_format:json_format", {}, '{"a": 1}', "a: 1"),
    ("detectable_format:title", {}, "<<Rain>>\nIt rains.", "Rain"),
    ("combination:two_responses", {}, "one******two", "one"),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Say hello."},
        "Say hello. Hello!",
        "Hello!",
    ),
    ("startend:end_checker", {"end_phrase": "The end."}, "So it was. The end.", "The end. No."),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": "at least"},
        "THIS IS loud",
        "THIS is not",
    ),
    (
        "change_case:english_capital",
        {},
        "THIS IS A LOUD SENTENCE ABOUT THE WEATHER.",
        "This is a sentence.",
    ),
    (
        "change_case:english_lowercase",
        {},
        "this is a quiet sentence about the weather.",
        "This is a sentence.",
    ),
    ("punctuation:no_comma", {}, "no stops here", "one, two"),
    ("startend:quotation", {}, '"quoted"', "not quoted"),
]


def _item(name: str, kwargs: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"instruction_id": name, "kwargs": kwargs}]


def test_the_cases_cover_ifevals_25_instructions() -> None:
    assert len({name for name, *_ in CASES}) == 25


@pytest.mark.parametrize(("name", "kwargs", "good", "bad"), CASES, ids=[c[0] for c in CASES])
def test_each_instruction(name: str, kwargs: dict[str, Any], good: str, bad: str) -> None:
    assert check("instructions", f"<think>x, Y.</think>{good}", _item(name, kwargs)).value == 1.0
    assert check("instructions", bad, _item(name, kwargs)).value == 0.0


def test_all_fraction_and_parts() -> None:
    reference = _item("punctuation:no_comma", {}) + _item("detectable_format:json_format", {})
    assert check("instructions", "no json", reference).value == 0.0
    half = check("instructions", "no json", reference, mode="fraction")
    assert half.value == 0.5
    assert [i["followed"] for i in half.parts["instructions"]] == [True, False]
    assert check("instructions", json.dumps({"a": 1}), reference).value == 1.0


def test_loose_drops_the_first_line_and_asterisks() -> None:
    reference = _item("detectable_format:json_format", {})
    text = 'Here it is:\n**{"a": 1}**'
    assert check("instructions", text, reference).value == 0.0
    assert check("instructions", text, reference, strict=False).value == 1.0


def test_an_empty_answer_follows_nothing() -> None:
    reference = _item("punctuation:no_comma", {})
    for text in ("", "  \n", "<think>never ends", "<think>done</think>\n"):
        assert check("instructions", text, reference).status == "wrong_format"


def test_language_verdicts_are_repeatable() -> None:
    """langdetect draws random numbers; unseeded it flips on short mixed text."""
    reference = _item("language:response_language", {"language": "en"})
    values = {check("instructions", "no problemo amigo what", reference).value for _ in range(40)}
    assert len(values) == 1


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ([], "non-empty list"),
        ([{"id": "x"}], "instruction_id"),
        (_item("punctuation:no_coma", {}), "did you mean 'punctuation:no_comma'"),
        (_item("punctuation:no_comma", {"relation": "at least"}), "does not take"),
    ],
)
def test_mistakes_of_the_caller_are_named(reference: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check("instructions", "text", reference)
