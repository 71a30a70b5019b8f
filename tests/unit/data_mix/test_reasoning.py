"""reasoning-gym as a source: no problem in both splits, no wrong answer key, exact rewards."""

import re
from importlib.util import find_spec
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from data_mix import reasoning
from data_mix.config import SourceConfig
from data_mix.reasoning import is_right, problem_key, reasoning_conversations
from data_mix.sources import open_source
from reward import check
from workbench.conversation import Conversation
from workbench.errors import UserError

ONE_DIGIT: dict[str, Any] = {"min_digits": 1, "max_digits": 1}
TASKS: dict[str, dict[str, Any]] = {
    "basic_arithmetic": {
        "min_terms": 2, "max_terms": 2, "allow_parentheses": False, "format_style": "natural",
        **ONE_DIGIT,
    },
    "chain_sum": {"min_terms": 2, "max_terms": 2, **ONE_DIGIT},
    "products": ONE_DIGIT,
}  # fmt: skip
needs_package = pytest.mark.skipif(
    find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed (setup.sh real)"
)


def _item(expression: str, answer: str) -> dict[str, Any]:
    return {
        "question": f"What is {expression}?",
        "answer": answer,
        "metadata": {"expression": expression},
    }


def _question(c: Conversation) -> str:
    return str(c.prompt[-1]["content"])


def test_order_wording_and_brackets_make_no_other_problem() -> None:
    assert problem_key(_item("(7 + 5)", "12")) == problem_key(_item("5 + 7", "12"))
    assert problem_key(_item("7 + 5", "12")) != problem_key(_item("7 - 5", "2"))
    assert problem_key(_item("7 + 5", "12")) != problem_key(_item("75 + 1", "76"))
    words: list[dict[str, Any]] = [
        {"question": q, "metadata": {}} for q in ("GCD of 6, 21?", "GCD of 21, 6?")
    ]
    assert problem_key(words[0]) == problem_key(words[1])


@pytest.mark.parametrize(
    ("expression", "answer", "right"),
    [
        ("2 + 3 * 4", "14", True),
        ("( 2 + 3 ) * 4", "20", True),
        ("-6 / 4", "-1.5", True),
        ("-6 / 4", "-2", False),  # floor division is not the value
        ("4 / 1", "2", False),  # what 0.1.25 says
        ("3 / 0", "12", False),
    ],
)
def test_an_answer_key_must_be_the_value(expression: str, answer: str, right: bool) -> None:
    assert is_right(_item(expression, answer)) is right


@needs_package
def test_no_problem_is_in_both_splits_and_no_question_twice() -> None:
    def key(c: Conversation) -> str:
        # By hand, not by problem_key: numbers and signs of the question, in sorted order.
        return " ".join(sorted(re.findall(r"\d+|[+*/-]", _question(c))))

    train, test = (reasoning_conversations(TASKS, s, 600, seed=1) for s in ("train", "test"))
    other_seed = reasoning_conversations(TASKS, "test", 600, seed=2)
    assert not {key(c) for c in train} & {key(c) for c in [*test, *other_seed]}
    assert len({_question(c) for c in train}) == len(train) == 600
    assert {c.domain for c in train} == set(TASKS)
    # Questions that ask the same say so: intervals are clustered by it.
    assert all(c.problem == key(c) for c in test)
    assert [Conversation.from_row(c.to_row()) for c in test[:9]] == test[:9]


@needs_package
def test_its_wrong_answer_keys_are_left_out() -> None:
    settings = {**TASKS["basic_arithmetic"], "operators": ["/"]}
    dataset = reasoning._dataset("basic_arithmetic", settings, 1)
    wrong = [i for i in (dataset[n] for n in range(200)) if not is_right(i)]
    assert wrong  # else the package is mended, and the guard may go
    for c in reasoning_conversations({"basic_arithmetic": settings}, "train", 20, seed=1):
        first, second = map(int, re.findall(r"\d+", _question(c)))
        assert c.check is not None and int(c.check.reference) * second == first


@needs_package
def test_the_reward_is_exact() -> None:
    """The package's own scorer pays 1/10 for "0123456789"; the checker pays nothing."""
    (c,) = reasoning_conversations({"chain_sum": TASKS["chain_sum"]}, "train", 1, seed=1)
    assert c.check is not None and c.reply is not None

    def value(text: str) -> float | None:
        assert c.check is not None
        return check(c.check.kind, text, c.check.reference, **c.check.options).value

    answer = str(c.check.reference)
    assert value(c.reply["content"]) == 1.0
    assert value(f"The sum is {answer}.") == 1.0
    assert value("0123456789") == 0.0
    expression = re.sub(r"[^-+*/\d ]", "", _question(c)).strip()
    assert value(expression) == 0.0, expression  # math-verify alone would work it out
    assert value("") == 0.0


@needs_package
def test_a_recipe_opens_it_and_asks_for_too_much_in_one_line() -> None:
    config: SourceConfig = TypeAdapter(SourceConfig).validate_python(
        {
            "type": "reasoning_gym",
            "tasks": {"products": ONE_DIGIT},
            "system": "Answer.",
            "size": 500,
        }
    )
    source = open_source(config, name="mine", seed=3)
    documents = source.take(20)
    assert documents == open_source(config, name="mine", seed=3).take(20)
    first = documents[0]
    assert isinstance(first, Conversation)
    assert first.messages[0] == {"role": "system", "content": "Answer."}
    with pytest.raises(UserError, match=r"has 75 documents, 400 were asked for"):
        source.take(400)


@needs_package
def test_settings_that_it_refuses_are_one_line() -> None:
    with pytest.raises(UserError, match="refuses the settings .*'products'.*digitts"):
        reasoning_conversations({"products": {"digitts": 1}}, "train", 1, seed=1)


def test_an_unknown_task_names_the_nearest() -> None:
    with pytest.raises(ValidationError, match="chain_sum"):
        TypeAdapter(SourceConfig).validate_python(
            {"type": "reasoning_gym", "tasks": {"chain_sums": {}}}
        )


def _id(document: Any) -> str:
    return str(document.id)


@needs_package
def test_every_pass_holds_each_task_once_in_another_order() -> None:
    config: Any = TypeAdapter(SourceConfig).validate_python(
        {"type": "reasoning_gym", "tasks": {"basic_arithmetic": {}}, "size": 12}
    )
    source = open_source(config, name="mine", seed=3)
    passes = [[_id(source.draw()) for _ in range(12)] for _ in range(4)]
    assert all(sorted(one) == sorted(passes[0]) for one in passes)
    assert len({tuple(one) for one in passes}) == 4
    again = open_source(config, name="mine", seed=3)
    again.load_state_dict({"position": 30})
    assert [_id(again.draw()) for _ in range(6)] == passes[2][6:]
