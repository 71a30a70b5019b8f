"""Each task by a scripted writer: what a good reply becomes, and the reason for which a bad one goes."""

from pathlib import Path
from typing import Any

import pytest

from data_mix import gates
from engine.replies import ReplyLog
from environments.config import HouseTasks
from environments.house import tasks as house_tasks
from evals.synthesis import parsing
from evals.synthesis.config import (
    AcademicQaTask,
    CodeQaTask,
    DiverseQaTask,
    LongDocumentQaTask,
    MindTask,
    RephraseTask,
    SafetyTask,
    ToolDialogueTask,
    TracesTask,
    When2CallTask,
)
from evals.synthesis.drive import Driver
from evals.synthesis.retrieval import nearest
from evals.synthesis.seeds import Seed
from evals.synthesis.tasks import columns_of, maker
from evals.synthesis.work import Made, Outcome
from tests.scripted_models import CUT, Script, voice
from workbench.chat import template as t
from workbench.conversation import CheckSpec, Conversation
from workbench.errors import UserError

TEXT = (
    "The bridge over the river Aller was built in 1847 of red sandstone. Its three arches span 62 metres, "
    "and the middle one opens for ships. In 1921 a flood carried the eastern arch away; masons from Verden "
    "rebuilt it within two years, with stones of the old quarry at Dörverden."
)


def made_of(
    task: Any, seed: Any, script: Script, folder: Path, seeds: list[Any] | None = None
) -> tuple[list[Outcome], Any]:
    """Outcomes of the seed's first piece, and the responder."""
    voiced, responder = voice(script)
    driver = Driver({"scripted": voiced}, {}, ReplyLog(folder / "r.jsonl"), 3, attempts=1)
    piece = maker(task, seeds or [seed])(seed, ["scripted"])[0]
    (played,) = driver.play([piece])
    assert not played.failed, played.failed
    for one in played.outcomes:
        if isinstance(one, Made):
            assert set(one.row) <= set(
                columns_of(task, talks=not isinstance(seed, Seed) or seed.conversation is not None)
            )
    return list(played.outcomes), responder


def reason(outcomes: list[Outcome]) -> str:
    (only,) = outcomes
    return "made" if isinstance(only, Made) else only.reason


DIALOGUE = """Ada: Which bridge shall we talk about today, and what makes it worth a talk at all?
Ben: The one over the Aller. It went up in 1847, and masons used red sandstone for it.
Ada: How wide is it, and can boats get through below?
Ben: There are three arches over 62 metres; the one between the others can be opened.
Ada: And did it stay as it was?
Ben: No, in 1921 high water took the arch in the east, and within two years it stood again."""


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (DIALOGUE, "made"),
        ("Ada: A bridge.\nBen: Yes.", "too short"),
        (DIALOGUE.replace("Ada:", "").replace("Ben:", ""), "no dialogue"),
        (f"Ada: {TEXT}\nBen: {TEXT}\nAda: Yes.\nBen: Yes, it is so.", "copied"),
        (DIALOGUE + "\nAda: It goes on and on." * 2, "made"),
        (DIALOGUE + "\nIt goes on and on and on." * 3, "in a circle"),
        (DIALOGUE + "\nAda: It cost 17, 18, 19, 23, 29, 31 and 37 thalers.", "numbers of its own"),
    ],
)  # fmt: skip
def test_mind(said: str, expected: str, tmp_path: Path) -> None:
    task = MindTask(type="mind", styles=("students",))
    outcomes, _ = made_of(task, Seed("s", TEXT), lambda m, s: said, tmp_path)
    assert reason(outcomes) == expected


PAIRS = """Question: When was the bridge over the Aller built?
Answer: It was built in 1847.

2. Question: True or false: the middle arch opens for ships.
Answer: True"""


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (PAIRS, "made"),
        ("The bridge is old.", "no pairs"),
        (PAIRS.split("\n\n")[0], "too few pairs"),
        (
            PAIRS.replace("It was built in 1847.", "Napoleon ordered dragoons."),
            "answers not in the text",
        ),
    ],
)
def test_diverse_qa(said: str, expected: str, tmp_path: Path) -> None:
    outcomes, _ = made_of(
        DiverseQaTask(type="diverse_qa"), Seed("s", TEXT), lambda m, s: said, tmp_path
    )
    assert reason(outcomes) == expected
    if isinstance(outcomes[0], Made):
        text = outcomes[0].row["text"]
        assert (
            text.startswith(TEXT)
            and text.endswith("Answer: True")
            and outcomes[0].row["pairs"] == 2
        )


def test_long_document_qa_asks_a_tenth_of_the_chunks_and_appends_at_the_end(tmp_path: Path) -> None:
    """40 paragraphs of about 100 tokens, chunks of 100: 4 questions behind the document, in its order."""
    document = "\n\n".join(
        f"Paragraph {n}. " + f"The tower of town{n} is {n + 200} feet high. " * 9 for n in range(40)
    )
    task = LongDocumentQaTask(type="long_document_qa", chunk_tokens=100, min_tokens=2000)
    assert "".join("".join(gates.chunks(document, 100)).split()) == "".join(document.split())

    def script(messages: list[dict[str, Any]], seed: int) -> str:
        number = messages[-1]["content"].split("Paragraph ")[1].split(".")[0]
        return (
            f"Question: How high is the tower of town{number}?\nAnswer: {int(number) + 200} feet."
        )

    outcomes, responder = made_of(task, Seed("s", document), script, tmp_path)
    (row,) = [o.row for o in outcomes if isinstance(o, Made)]
    chunks = len(gates.chunks(document, 100))
    assert len(responder.asked) == row["asked"] == round(chunks / 10) == row["pairs"]
    head, tail = row["text"][: len(document.rstrip())], row["text"][len(document.rstrip()) :]
    assert head == document.rstrip()
    towns = [int(p.question.split("town")[1].rstrip("?")) for p in parsing.pairs(tail)]
    assert towns == sorted(towns) and len(towns) == row["pairs"]
    short, _ = made_of(task, Seed("t", TEXT), script, tmp_path)
    assert reason(short) == "too short a document"


def test_long_document_qa_keeps_what_the_chunk_answers_and_memory_does_not(tmp_path: Path) -> None:
    document = "\n\n".join(
        f"Paragraph {n}. " + f"The tower of town{n} is {n + 200} feet high. " * 9 for n in range(40)
    )
    task = LongDocumentQaTask(
        type="long_document_qa", chunk_tokens=100, min_tokens=100, share=0.2, answerable=True
    )
    known: set[int] = set()

    def script(messages: list[dict[str, Any]], seed: int) -> str:
        said = messages[-1]["content"]
        if said.startswith("Read the text"):
            number = int(said.split("Paragraph ")[1].split(".")[0])
            known.add(number)
            return f"Question: How high is the tower of town{number}?\nAnswer: {number + 200} feet."
        number = int(said.split("tower of town")[-1].split("?")[0])
        open_book = "Paragraph" in said
        return f"{number + 200} feet." if open_book or number % 2 else "Nobody can tell."

    outcomes, _ = made_of(task, Seed("s", document), script, tmp_path)
    (row,) = [o.row for o in outcomes if isinstance(o, Made)]
    assert row["pairs"] == sum(n % 2 == 0 for n in known)


OTHER = (
    "Red sandstone makes up the crossing of the Aller, which dates from 1847. Ships pass below the central of its "
    "three arches (62 metres in all). High water destroyed the one in the east in 1921."
)


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (OTHER, "made"),
        (TEXT, "copied"),
        ("A bridge.", "length"),
        (OTHER.replace("1921", "1922"), "numbers of its own"),
        (OTHER + " See $x^2$.", "equations, links or code changed"),
        (OTHER + " So it goes on and on." * 3, "in a circle"),
    ],
)
def test_rephrase(said: str, expected: str, tmp_path: Path) -> None:
    outcomes, _ = made_of(
        RephraseTask(type="rephrase"), Seed("s", TEXT), lambda m, s: said, tmp_path
    )
    assert reason(outcomes) == expected


def academic(solver: str, closed: str, extra: str = "") -> Script:
    def script(messages: list[dict[str, Any]], seed: int) -> str:
        said = messages[-1]["content"]
        if "multiple-choice question" in said:
            return (
                "Question: When was the bridge over the Aller built?\nA. 1747\nB. 1847\nC. 1921\nD. 1923\n"
                f"Answer: B\nJustification: The bridge was built in 1847 of red sandstone.{extra}"
            )
        return solver if said.startswith("The bridge over") else closed

    return script


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (academic("Answer: B", "Answer: A"), "made"),
        (academic("Answer: C", "Answer: A"), "the passage does not give the answer"),
        (academic("Answer: B", "Answer: B"), "answered without the passage"),
        (lambda m, s: "Question: When?\nA. now\nB. then", "no answer with its reason"),
        (
            lambda m, s: "Question: When?\nA. now\nB. then\nAnswer: A\nJustification: so",
            "options not as asked",
        ),
    ],
)
def test_academic_qa_makes_a_choice_and_a_free_answer_where_the_passage_gives_it(
    script: Script, expected: str, tmp_path: Path
) -> None:
    task = AcademicQaTask(type="academic_qa", neighbours=1, closed_book=True)
    other = Seed("o", "Iron is smelted from ore in furnaces, with coke and lime, at great heat.")
    outcomes, responder = made_of(task, Seed("s", TEXT), script, tmp_path, [Seed("s", TEXT), other])
    assert "Iron is smelted" in responder.asked[0][-1]["content"]  # its neighbour
    assert [("made" if isinstance(o, Made) else o.reason) for o in outcomes] == [expected] * 2
    if isinstance(outcomes[0], Made) and isinstance(outcomes[1], Made):
        assert outcomes[0].row["check"]["reference"] == "B"
        assert "1847" in outcomes[1].row["messages"][-1]["content"]
        assert "A. 1747" not in outcomes[1].row["messages"][0]["content"]


def test_nearest_chunks_are_those_of_the_same_matter() -> None:
    texts = [
        "The heart pumps blood through arteries and veins.", "Blood returns to the heart through veins.",
        "A matrix has rows and columns.", "The rows of a matrix span its row space.",
    ]  # fmt: skip
    assert [near[0] for near in nearest(texts, 1)] == [1, 0, 3, 2]
    assert nearest(texts, 0) == [[], [], [], []]


SOLVED = "Here:\n```python\ndef double(x):\n    return 2 * x\n```"


@pytest.mark.parametrize(
    ("solution", "expected"),
    [
        (SOLVED, "made"),
        ("def double(x): return 2 * x", "no block of code"),
        ("```python\ndef double(x:\n```", "does not parse"),
        ("```python\nprint(2)\n```", "defines nothing"),
        ('```python\ndef double(x):\n    """Doubles."""\n    ...\n```', "an empty body"),
    ],
)
def test_code_qa(solution: str, expected: str, tmp_path: Path) -> None:
    def script(messages: list[dict[str, Any]], seed: int) -> str:
        wants_problem = "Here is a piece" in messages[-1]["content"]
        return "Problem: Write `double(x)` that returns twice x." if wants_problem else solution

    outcomes, _ = made_of(
        CodeQaTask(type="code_qa"), Seed("s", "def f(x):\n    return x + x"), script, tmp_path
    )
    assert reason(outcomes) == expected


@pytest.mark.parametrize(
    ("tests", "expected"),
    [
        ("```python\nassert double(2) == 4\nassert double(-1) == -2\n```", "made"),
        ("```python\nassert double(2) == 4\nassert double(-1) == 2\n```", "the tests do not pass"),
        ("```python\nassert double(2) == 4\n```", "too few tests that call the solution"),
        (
            "```python\nassert triple(2) == 4\nassert triple(1) == 2\n```",
            "too few tests that call the solution",
        ),
    ],
)
def test_code_qa_runs_the_writers_tests_in_the_sandbox(
    tests: str, expected: str, tmp_path: Path
) -> None:
    def script(messages: list[dict[str, Any]], seed: int) -> str:
        said = messages[-1]["content"]
        if "Here is a piece" in said:
            return "Problem: Write `double(x)` that returns twice x."
        return tests if "assert statements" in said else SOLVED

    task = CodeQaTask(type="code_qa", tests=True)
    outcomes, _ = made_of(task, Seed("s", "def f(x):\n    return x + x"), script, tmp_path)
    assert reason(outcomes) == expected


SUM = Conversation(
    "q", "math", [{"role": "user", "content": "2 + 3 = ?"}], check=CheckSpec("math", "5")
)


def test_traces_keep_the_shortest_replies_that_pass_their_check(tmp_path: Path) -> None:
    replies = [
        "Long way: 2 + 3, counted on the fingers, is \\boxed{5}",
        "\\boxed{6}",
        "\\boxed{5}",
        "It is 5, \\boxed{5}",
    ]
    count = iter(replies)
    task = TracesTask(type="traces", samples=4, keep=2)
    outcomes, _ = made_of(task, Seed("q", SUM), lambda m, s: next(count), tmp_path)
    said = [o.row["messages"][-1]["content"] for o in outcomes if isinstance(o, Made)]
    assert said == ["\\boxed{5}", "It is 5, \\boxed{5}"]
    wrong, _ = made_of(
        TracesTask(type="traces"), Seed("r", SUM), lambda m, s: "\\boxed{7}", tmp_path
    )
    assert reason(wrong) == "no reply passed its check"
    with pytest.raises(UserError, match="has no check"):
        maker(task, [])(Seed("t", TEXT), ["scripted"])


@pytest.mark.parametrize(
    ("guard", "said", "refuse", "expected"),
    [
        ("safe", "Lock the cupboard.", False, "made"),
        ("**Unsafe**", "Mix both.", False, "the guard says unsafe"),
        ("It depends.", "Mix both.", False, "the guard's verdict could not be read"),
        ("Safe.", "I can't help with that, but I can tell you how to store it.", True, "made"),
        ("safe", "Sure, mix both.", True, "does not refuse"),
    ],
)
def test_safety_in_two_steps_leaves_no_prompt_of_ours_in_the_row(
    guard: str, said: str, refuse: bool, expected: str, tmp_path: Path
) -> None:
    def script(messages: list[dict[str, Any]], seed: int) -> str:
        return guard if "You judge whether" in messages[-1]["content"] else said

    outcomes, _ = made_of(
        SafetyTask(type="safety", refuse=refuse),
        Seed("s", "How do I store bleach?"),
        script,
        tmp_path,
    )
    assert reason(outcomes) == expected
    if isinstance(outcomes[0], Made):
        assert [m["role"] for m in outcomes[0].row["messages"]] == ["user", "assistant"]


def calls_of(*calls: dict[str, Any]) -> str:
    return t.with_calls("", list(calls))


def assistant(
    task: Any, *, wrong: bool = False, forget: bool = False, ask_first: bool = False
) -> Script:
    """Plays user and assistant over the house; `wrong` sends the last call to another room or person."""

    def script(messages: list[dict[str, Any]], seed: int) -> str:
        said = str(messages[-1]["content"])
        goal = task.messages[0]["content"]
        if said.startswith("You play a person who writes"):
            return "Please do it." if forget else f"Hello! {goal} Thank you."
        if said.startswith("You play a person who talks"):
            return (
                "Yes, all of it."
                if said.rstrip().endswith("alone.")
                and "Shall I do all?\n" in said
                and "Yes, all" not in said
                else "<end>"
            )
        done = sum(m["role"] == "tool" for m in messages)
        if ask_first and not done and messages[-1]["content"] != "Yes, all of it.":
            return "Shall I do all?"
        calls = task.data["calls"]
        if done < len(calls):
            call = calls[done]
            if wrong and done == len(calls) - 1:
                key = sorted(call["arguments"])[-1]
                call = {**call, "arguments": {**call["arguments"], key: 3}}
            return calls_of(call)
        return "It is done."

    return script


@pytest.mark.parametrize(
    ("how", "expected"),
    [({}, "made"), ({"ask_first": True}, "made"), ({"wrong": True}, "the final state is another"),
     ({"forget": True}, "the user left something out")],
)  # fmt: skip
def test_tool_dialogues_are_verified_by_the_environments_own_state(
    how: dict[str, bool], expected: str, tmp_path: Path
) -> None:
    config = ToolDialogueTask(
        type="tool_dialogue", tasks=HouseTasks(type="house"), personas=("a nurse on night shift",)
    )
    for task in house_tasks("rl", 6, 1, requests=(2, 2)):
        outcomes, _ = made_of(config, task, assistant(task, **how), tmp_path / task.id)
        assert reason(outcomes) == expected
        if isinstance(outcomes[0], Made):
            row = outcomes[0].row
            roles = [m["role"] for m in row["messages"]]
            assert roles[-1] == "assistant" and roles.count("tool") == 2 == row["calls"]
            assert roles.count("user") == 1 + how.get("ask_first", False)


WEATHER = {
    "name": "get_weather",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
    },
}
CLOCK = {"name": "get_time", "parameters": {"type": "object", "properties": {}}}
CALLING = Conversation(
    "c", "tools",
    [{"role": "user", "content": "What is the weather in Oslo?"},
     {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Oslo"}}}]}],
    tools=[WEATHER, CLOCK],
)  # fmt: skip


@pytest.mark.parametrize(
    ("what", "rewritten", "said", "expected"),
    [
        ("tool", "", "I cannot look up the weather with the tools that I have.", "made"),
        ("tool", "", calls_of({"name": "get_time", "arguments": {}}), "calls a tool all the same"),
        ("tool", "", "It rains.", "does not decline"),
        ("argument", "What is the weather?", "For which city?", "made"),
        ("argument", "What is the weather in oslo?", "For which city?", "the argument is still said"),
        ("argument", "What is the weather?", "It rains.", "does not ask"),
        ("argument", "What is the weather?", calls_of({"name": "get_weather", "arguments": {"city": "Paris"}}), "calls a tool all the same"),
    ],
)  # fmt: skip
def test_negatives_of_tool_calls(
    what: Any, rewritten: str, said: str, expected: str, tmp_path: Path
) -> None:
    def script(messages: list[dict[str, Any]], seed: int) -> str:
        return rewritten if "Here is a request" in messages[-1]["content"] else said

    task = When2CallTask(type="when2call", withhold=(what,))
    outcomes, _ = made_of(task, Seed("c", CALLING), script, tmp_path)
    assert reason(outcomes) == expected
    if isinstance(outcomes[0], Made):
        row = outcomes[0].row
        assert len(row["tools"]) == (1 if what == "tool" else 2)
        assert not row["messages"][-1].get("tool_calls")


def test_a_cut_dialogue_is_no_row_and_no_removal(tmp_path: Path) -> None:
    voiced, _ = voice(lambda m, s: DIALOGUE + CUT)
    driver = Driver({"scripted": voiced}, {}, ReplyLog(tmp_path / "r.jsonl"), 3)
    (piece,) = maker(MindTask(type="mind", styles=("debate",)), [])(Seed("s", TEXT), ["scripted"])
    (played,) = driver.play([piece])
    assert "was cut" in played.failed and not played.outcomes
