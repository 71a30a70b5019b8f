"""Translation: every planted fault is found, and good lines pass."""

from pathlib import Path
from typing import Any

import pytest

from engine.replies import ReplyLog
from evals.synthesis.config import TranslateTask
from evals.synthesis.drive import Driver
from evals.synthesis.seeds import Seed
from evals.synthesis.tasks import maker
from evals.synthesis.tasks.translate import lines_of
from evals.synthesis.work import Made
from tests.scripted_models import Script, voice
from workbench.conversation import Conversation

TASK = TranslateTask(type="translate", to="de")
PAIRS = {
    "The old mill stands beside the river since 1712.": "Die alte Mühle steht seit 1712 neben dem Fluss.",
    "Its wheel turns only in spring, when there is water enough.": "Ihr Rad dreht sich nur im Frühjahr, wenn genug Wasser da ist.",
    "Read more at https://example.org/mill about $E = mc^2$ and `wheel()`.": "Mehr über $E = mc^2$ und `wheel()` steht auf https://example.org/mill geschrieben.",
    "The miller sells flour, bread and honey on Saturdays.": "Der Müller verkauft samstags Mehl, Brot und Honig.",
}
LINES = list(PAIRS)
TEXT = f"# {LINES[0]}\n\n- {LINES[1]}\n\n```python\nprint('leave this alone, please')\n```\n{LINES[2]}\n---\n  {LINES[3]}"


def translated(text: str) -> str:
    """The right answer to a prompt."""
    out = []
    for line in text.splitlines():
        number, _, words = line.partition("] ")
        if number.startswith("[") and words in PAIRS:
            out.append(f"{number}] <{PAIRS[words]}>")
    return "\n".join(out)


def play(script: Script, folder: Path, seed: Seed | None = None, task: TranslateTask = TASK) -> Any:
    voiced, responder = voice(script)
    driver = Driver({"scripted": voiced}, {}, ReplyLog(folder / "r.jsonl"), 3)
    (piece,) = maker(task, [])(seed or Seed("s", TEXT), ["scripted"])
    (played,) = driver.play([piece])
    assert not played.failed
    return played.outcomes[0], responder


def test_a_right_translation_keeps_marks_code_links_and_everything_between(tmp_path: Path) -> None:
    made, responder = play(lambda m, s: translated(m[-1]["content"]), tmp_path)
    assert isinstance(made, Made)
    wanted = TEXT
    for line, words in PAIRS.items():
        wanted = wanted.replace(line, words)
    assert made.row["text"] == wanted
    assert "leave this alone" not in responder.asked[0][-1]["content"]


def test_lines_join_to_the_text_they_were_cut_from() -> None:
    assert "\n".join(a + b + c for a, b, c, _ in lines_of(TEXT)) == TEXT
    assert [line[1] for line in lines_of(TEXT) if line[3]] == LINES


FAULTS = {
    "a line lost": lambda a: "\n".join(a.splitlines()[:2] + a.splitlines()[3:]),
    "a line twice": lambda a: "\n".join([*a.splitlines(), a.splitlines()[0]]),
    "lines in another order": lambda a: "\n".join(reversed(a.splitlines())),
    "lines that were not asked for": lambda a: a + "\n[9] <Und noch etwas.>",
    "a line without its bracket": lambda a: a.replace(">\n[2] <", ">\n<"),
    "numbers changed": lambda a: a.replace("1712", "1721"),
    "links, equations or code changed": lambda a: a.replace("mc^2", "mc^3"),
    "copied": lambda a: a.replace(PAIRS[LINES[3]], LINES[3]),
    "another language": lambda a: a.replace(
        PAIRS[LINES[3]], "Le meunier vend de la farine, du pain et du miel le samedi."
    ),
    "a length that cannot be": lambda a: a.replace(PAIRS[LINES[3]], "Müller."),
    "an empty line": lambda a: a.replace(PAIRS[LINES[3]], " "),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_every_planted_fault_is_rejected(fault: str, tmp_path: Path) -> None:
    removed, _ = play(lambda m, s: FAULTS[fault](translated(m[-1]["content"])), tmp_path)
    assert not isinstance(removed, Made)
    assert removed.reason == f"untranslated: {fault}"


@pytest.mark.parametrize(
    "fault",
    [
        lambda a: a.replace("https://example.org/mill", "https://example.org/muehle"),
        lambda a: a.replace("`wheel()`", "`rad()`"),
        lambda a: "Gern! Hier ist die Übersetzung:\n" + a,
        lambda a: a.replace("[1]", "1."),
        lambda a: a.replace("[1] <", "[1] "),
        lambda a: "",
        lambda a: "\n".join(f"[{n}] <{line}>" for n, line in enumerate(LINES, start=1)),
        lambda a: a.replace(PAIRS[LINES[1]], PAIRS[LINES[1]] + " " + PAIRS[LINES[1]] * 5),
        lambda a: "Ich kann das leider nicht übersetzen.",
    ],
)
def test_faults_of_other_kinds_are_rejected_too(fault: Any, tmp_path: Path) -> None:
    removed, _ = play(lambda m, s: fault(translated(m[-1]["content"])), tmp_path)
    assert not isinstance(removed, Made) and removed.reason.startswith("untranslated: ")


def test_conversations_keep_their_roles_and_check_and_long_ones_are_asked_in_parts(
    tmp_path: Path,
) -> None:
    talk = Conversation(
        "c", "math",
        [{"role": "user", "content": LINES[0]},
         {"role": "assistant", "reasoning_content": LINES[1], "content": f"{LINES[3]}\n\n42"}],
    )  # fmt: skip
    task = TASK.model_copy(update={"lines_at_once": 2})
    made, responder = play(
        lambda m, s: translated(m[-1]["content"]), tmp_path, Seed("c", talk), task
    )
    assert isinstance(made, Made) and len(responder.asked) == 2
    asked, reply = made.row["messages"]
    assert asked == {"role": "user", "content": PAIRS[LINES[0]]}
    assert reply["reasoning_content"] == PAIRS[LINES[1]]
    assert reply["content"] == f"{PAIRS[LINES[3]]}\n\n42" and made.row["language"] == "de"


def test_a_text_of_code_alone_has_nothing_to_translate(tmp_path: Path) -> None:
    removed, _ = play(lambda m, s: "", tmp_path, Seed("s", "```\nx = 1\n```\n12 + 30"))
    assert removed.reason == "nothing to translate"
