"""The miniature world: splits, determinism, and worked solutions that are right."""

import json
import re
from itertools import islice
from random import Random

import pytest

from data_mix import world
from data_mix.world import arithmetic, multilingual
from data_mix.world.facts import RELATIONS
from data_mix.world.generate import PAPER_SAMPLES, proposer
from data_mix.world.languages import LANGUAGES
from data_mix.world.problem import Propose, propose_in_split, split_of
from workbench.errors import UserError

PER_SPLIT = 200


def _problems(domain: str, split: str, n: int = PER_SPLIT) -> list[tuple[str, str]]:
    """(key, prompt) of n problems of a split."""
    propose: Propose = proposer(domain)
    found = [propose_in_split(propose, Random(f"{split}{i}"), split) for i in range(n)]
    return [(p.key, p.prompt) for p in found]


def test_no_key_and_no_prompt_is_in_two_splits() -> None:
    """Across domains too: a German sum of the test is in no English training prompt's split."""
    owner_of_key: dict[str, str] = {}
    owner_of_prompt: dict[str, str] = {}
    for domain in world.DOMAINS:
        for split in world.SPLITS:
            for key, prompt in _problems(domain, split):
                assert owner_of_key.setdefault(key, split) == split, key
                assert owner_of_prompt.setdefault(prompt, split) == split, prompt


def test_a_sum_has_one_key_in_all_languages() -> None:
    terms = arithmetic.Terms((12, 7, -3))
    asked = [multilingual.sum_problem(Random(0), language, terms) for language in LANGUAGES]
    assert {problem.key for problem in asked} == {arithmetic.problem_of(Random(0), terms).key}
    assert len({problem.prompt for problem in asked}) == 5


def test_pretraining_text_holds_no_sum_of_a_held_out_split() -> None:
    for kind in ("math", "multilingual"):
        for document in islice(world.pretraining_text(kind, 0), 200):
            assert isinstance(document, str)
            for expression in re.findall(r"^([\d+-]+)=\?", document, flags=re.M):
                terms = sorted(int(t) for t in re.findall(r"[+-]?\d+", expression))
                assert split_of("sum:" + ",".join(map(str, terms))) == "train"


def test_every_equation_written_in_a_trace_is_true() -> None:
    count = 0
    for domain in ("math", "multilingual"):
        for conversation in world.conversations(domain, "train", 200, 0):
            trace = conversation.messages[-1]["reasoning_content"]
            for a, sign, b, c in re.findall(r"(\d+)([+-])(\d+)=(\d+)", trace):
                assert int(a) + (int(b) if sign == "+" else -int(b)) == int(c)
                count += 1
    assert count > 300


def test_written_functions_pass_their_tests() -> None:
    for conversation in world.conversations("coding", "train", 200, 0):
        assert conversation.check is not None
        code = conversation.messages[-1]["content"].split("```python\n")[1].split("```")[0]
        reference = conversation.check.reference
        if "function" in reference:
            scope: dict[str, object] = {}
            exec(code, scope)
            function = scope[reference["function"]]
            assert callable(function)
            assert all(function(*args) == expected for args, expected in reference["tests"])
        else:
            printed = re.findall(r'print\("(\w+)"\)', code)
            assert "\n".join(printed) + "\n" == reference["expected_output"]


def test_the_chosen_letter_is_the_one_option_that_the_trace_names() -> None:
    """In all languages: four labels that differ, and the named option is one of them."""
    asked = 0
    for domain in ("science", "multilingual"):
        for conversation in world.conversations(domain, "test", 300, 0):
            trace, letter = (conversation.messages[-1][k] for k in ("reasoning_content", "content"))
            options = conversation.messages[0]["content"].splitlines()[1:]
            if not options:
                continue
            asked += 1
            assert len({option.split(") ")[0] for option in options}) == len(options) == 4
            fact, named = trace.splitlines()
            assert named in options and named.startswith(f"{letter}) ")
            assert named.split(") ")[1] in fact
    assert asked > 330


def test_synthetic_documents_ask_no_held_out_request() -> None:
    """By hand: the first line is a request or a list of options, the rest is copied from it."""
    found = {"call": 0, "instructions": 0, "options": 0}
    held_out = {
        conversation.messages[0]["content"]
        for domain in ("tool_calling", "conversation")
        for conversation in world.conversations(domain, "test", 300, 0)
    }
    for index in range(600):
        text = world.pretraining_at(index, kind="syn-crawl-high", seed=0)
        assert isinstance(text, str)
        for part in text.split("\n\n"):
            first, *rest = part.splitlines()
            assert first not in held_out
            if rest and rest[0].startswith("{"):
                found["call"] += 1
                assert all(str(v) in first for v in json.loads(rest[0]).values())
            elif first[1:3] == ") ":
                found["options"] += 1
                assert rest[-1] in (first, *rest[:3])
                assert rest[-1].endswith(f") {rest[3]}")  # the option that is named
            elif rest and rest[0].startswith("about "):
                found["instructions"] += 1
                assert rest[0].removeprefix("about ") in first
    assert min(found.values()) > 100


def test_calls_name_an_offered_tool_and_copy_arguments_from_the_request() -> None:
    irrelevant = 0
    for conversation in world.conversations("tool_calling", "train", 300, 0):
        offered = {t["name"] for t in conversation.tools or []}
        calls = conversation.messages[-1].get("tool_calls", [])
        assert conversation.check is not None
        assert [c["function"] for c in calls] == conversation.check.reference
        irrelevant += not calls
        for call in calls:
            assert call["function"]["name"] in offered
            for value in call["function"]["arguments"].values():
                assert str(value) in conversation.messages[0]["content"]
    assert 25 <= irrelevant <= 80  # 1 in 6 of 300


def test_proportions_are_the_papers_with_a_floor_for_safety() -> None:
    """[paper] Table 7; multilingual 5.0M of the 11.5M that are not safety, times 0.98 [derived]."""
    assert sum(world.PROPORTIONS.values()) == pytest.approx(1.0)
    assert world.PROPORTIONS["safety"] == 0.02
    assert world.PROPORTIONS["multilingual"] == pytest.approx(0.98 * 5.0 / 11.5)
    ratio = world.PROPORTIONS["math"] / world.PROPORTIONS["tool_calling"]
    assert ratio == pytest.approx(3.75)
    assert sum(PAPER_SAMPLES.values()) == 11_502_000


def test_same_seed_same_stream_and_another_seed_another() -> None:
    for domain in world.DOMAINS:
        first, again, other = (list(world.conversations(domain, "rl", 20, s)) for s in (1, 1, 2))
        assert first == again
        assert first != other


def test_num_terms_sets_the_length_of_the_trace() -> None:
    for conversation in world.conversations("math", "test", 20, 0, num_terms=7):
        assert len(conversation.messages[-1]["reasoning_content"].splitlines()) == 6


def test_long_context_holds_its_answer_at_the_asked_length() -> None:
    sample = world.long_context(3, split="train", seed=0, num_characters=6_000)
    text, answer = sample.messages[0]["content"], sample.messages[-1]["content"]
    assert 6_000 <= len(text) <= 6_600
    assert text.count(answer) == 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: next(world.conversations("maths", "train", 1, 0)), "did you mean 'math'"),
        (lambda: next(world.conversations("math", "dev", 1, 0)), "unknown split 'dev'"),
        (lambda: list(world.conversations("safety", "test", 10**4, 0)), "fewer than 10000"),
        (lambda: world.pretraining_at(0, kind="wiki", seed=0), "did you mean 'wikipedia'"),
    ],
)
def test_a_wrong_name_or_size_is_one_clear_line(call: object, message: str) -> None:
    assert callable(call)
    with pytest.raises(UserError, match=message):
        call()


def test_documents_of_copying_say_everything_twice() -> None:
    """[derived] Second lines repeat the first of a dialogue; looked-up lines are those above in another order."""
    seen = set[str]()
    for index in range(600):
        for kind in ("copying-few", "copying-all"):
            text = world.pretraining_at(index, kind=kind, seed=0)
            assert isinstance(text, str)
            if "\n\n" in text:
                above, below = (part.splitlines() for part in text.split("\n\n"))
                assert kind == "copying-all" and sorted(above) == sorted(below)
                seen |= {line.split(") ")[1] for line in above}
            else:
                first, second = (line.split(": ")[1] for line in text.splitlines())
                assert first == second and len(first.split()) >= 2
    # Of many words, those of facts among them: what is only ever one of few words is learnt by itself.
    facts = {value for relation in RELATIONS for value in relation.facts.values()}
    assert len(seen) > 150 and len(seen & facts) > 30
