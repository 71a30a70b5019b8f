"""Step `rewrite` and its gate: what a cleaning model may leave out, and that nothing else goes through."""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from data_mix.curate.equations import Page
from data_mix.curate.steps.html import by_resiliparse
from data_mix.curate.steps.rewrite import Rewrite
from data_mix.faithful import CUT, OTHER_EQUATION, OWN_WORDS, REPEATED, pieces, unfaithful
from tests.data_stages import data_of, rows_of, run_stages
from tests.judge_server import Said, judge_server
from tests.rewritings import FAULTS, INNOCENT
from workbench.errors import UserError

PAGES = sorted((Path(__file__).parents[2] / "pages").glob("*.html"))
MENU = "  * index\n  * next |\n  * previous |\n\n"
NOTICE = "\n\n© Copyright 2021, The authors. Created using Sphinx 4.2.0."
MATTER = """The area of a square is \\(a^2\\), and a is its side.

It grows with a as follows:

>>> area(2)
4

Therefore twice the side has 4 times the area."""


LESSON = """The mean of some numbers is their sum over their count, as everybody knows.

f(x) = x + 1

Answer 42

So x is 5.

def mean(xs):
    total = sum(xs) / len(xs)
    return total

$ python run.py --seed 3

x = 1

* every list item that runs on for so many words says something of its matter

    o one more case of it;

JavaScript passes functions as values everywhere.

y =
cos(x)

1. 5 apples and two pears are what she has."""
FRAME = "3 comments\n\nPage 2 of 7\n\nmean 1.2.1 documentation »\n\nToggle navigation\n\n"


def texts() -> list[str]:
    whole = [by_resiliparse(Page(p.read_text("utf-8")).html, main=False) for p in PAGES]
    return [
        *(piece for text in whole for piece in pieces(text, 700)),
        MENU + MATTER + NOTICE,
        MENU + LESSON + NOTICE,
    ]


@pytest.mark.parametrize("kind", FAULTS)
def test_every_planted_fault_of_a_rewriting_is_caught(kind: str) -> None:
    rng, planted = random.Random(f"faults/{kind}"), 0
    for text in texts():
        how = rng.choice(list(INNOCENT.values()))  # a fault may come with changes that are none
        made = FAULTS[kind](how(text, rng), rng) or FAULTS[kind](text, rng)
        if made is not None:
            planted += 1
            assert unfaithful(text, made), made
    assert planted >= 1


@pytest.mark.parametrize("kind", INNOCENT)
def test_changes_that_are_none_go_through(kind: str) -> None:
    for text in texts():
        assert unfaithful(text, INNOCENT[kind](text, random.Random(1))) == ""


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        (MATTER, ""),
        ("## " + MATTER.replace("\n\n", "\n"), ""),
        (MATTER.replace("\\(a^2\\)", "$a ^ 2$"), ""),
        (MATTER.replace("a^2", "a^3"), OTHER_EQUATION),
        (MATTER.replace("4 times", "5 times"), "a number that the text has not"),
        (MATTER.replace(">>> area(2)\n4\n", ""), "code is missing"),
        (MATTER.partition("Therefore")[0], CUT),
        (MATTER.partition("has 4")[0], "sentences are missing"),
        (MATTER + "\n" + MATTER, REPEATED),
        ("Here is the text:\n" + MATTER, OWN_WORDS),
        (MATTER.replace("It grows with a as follows:", ""), "sentences are missing"),
        (MATTER.replace("It grows", "It never grows"), OWN_WORDS),
        ("", "nothing is left"),
    ],
)
def test_what_the_gate_says(said: str, reason: str) -> None:
    assert unfaithful(MENU + MATTER + NOTICE, said) == reason


def test_a_frame_with_numbers_may_go() -> None:
    assert unfaithful(MENU + FRAME + LESSON + NOTICE, LESSON) == ""


@pytest.mark.parametrize("number", range(1, len(LESSON.split("\n\n"))))
def test_no_part_of_a_lesson_may_go(number: int) -> None:
    parts = LESSON.split("\n\n")
    assert unfaithful(LESSON, "\n\n".join(parts[:number] + parts[number + 1 :])), parts[number]


def test_sentences_of_a_comment_may_go_where_the_recipe_says_so() -> None:
    text = f"{MATTER}\n\nI like this very much, thanks.\n\nThe side is \\(a\\)."
    said = text.replace("I like this very much, thanks.\n\n", "")
    assert unfaithful(text, said) and unfaithful(text, said, max_dropped=0.3) == ""
    assert unfaithful(text, said.replace("\\(a^2\\)", ""), max_dropped=0.9)


def test_pieces_are_the_text_and_cut_no_equation() -> None:
    text = "\n\n".join(f"Line {n} of it: \\[a_{n} =\n\n {n}\\] holds." for n in range(200))
    found = pieces(text, 100)
    assert "".join(found) == text and len(found) > 10
    assert all(piece.count("\\[") == piece.count("\\]") for piece in found)


def _stages(folder: Path, address: str, rows: int = 3, **more: Any) -> dict[str, Any]:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": _page(n)}) + "\n" for n in range(rows)))
    by = {"endpoint": address, "retries": 0, "parallel": 2, "max_tokens": 99}
    step = {"type": "rewrite", "by": by, **more}
    return {
        "clean": {
            "kind": "curate",
            "input": {"type": "jsonl", "form": "text", "column": "text", "path": str(path)},
            "steps": [step],
        }
    }


def _page(number: int) -> str:
    return f"{MENU}Page {number} says this.\n\n{MATTER}{NOTICE}"


def _clean(body: dict[str, Any]) -> str:
    said = str(body["messages"][-1]["content"])
    return said[said.index("Page") : said.index("\n\n©")] if "Page" in said else "ready"


def _run(folder: Path, say: Callable[[dict[str, Any]], Said], **more: Any) -> tuple[Any, int]:
    with judge_server(say) as server:
        code, said = run_stages(folder / "run", _stages(folder, server.address, **more))
        assert code == 0, said
        return data_of(folder / "run", "clean"), len(server.asked) - 1


def test_a_faithful_reply_takes_the_place_of_the_page(tmp_path: Path) -> None:
    data, asked = _run(tmp_path, lambda body: Said(_clean(body)))
    assert asked == 3 and data["counts"]["rewrite/pieces rewritten"] == 3
    found = [row["text"] for row in rows_of(tmp_path / "run", "clean")]
    assert found == [f"Page {n} says this.\n\n{MATTER}" for n in range(3)]


def test_a_piece_keeps_the_blanks_around_it(tmp_path: Path) -> None:
    parts = [f"\n\n  Part {n} of {'many words ' * 30}ends here.\n\n\n" for n in range(3)]
    path = tmp_path / "whole.jsonl"
    path.write_text(json.dumps({"text": "".join(parts)}) + "\n")

    def say(body: dict[str, Any]) -> Said:
        said = str(body["messages"][-1]["content"])
        return Said(
            "Of its own." if "Part 1" in said else said[said.find("Part") :].partition("\n")[0]
        )

    with judge_server(say) as server:
        stages = _stages(tmp_path, server.address, chunk_tokens=90)
        stages["clean"]["input"]["path"] = str(path)
        assert run_stages(tmp_path / "run", stages)[0] == 0
    data = data_of(tmp_path / "run", "clean")
    assert data["counts"]["rewrite/pieces rewritten"] == 2
    (row,) = rows_of(tmp_path / "run", "clean")
    assert row["text"] == "".join(parts).replace("  Part 0", "Part 0").replace("  Part 2", "Part 2")


def test_as_many_rows_are_taken_at_once_as_requests_may_be_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = list[int]()

    def decide(self: Rewrite, items: Any) -> list[None]:
        sizes.append(len(items))
        return [None] * len(items)

    monkeypatch.setattr(Rewrite, "decide", decide)
    with judge_server(lambda body: Said("ready")) as server:
        stages = _stages(tmp_path, server.address, rows=75)
        stages["clean"]["steps"][0]["by"]["parallel"] = 70
        assert run_stages(tmp_path / "run", stages)[0] == 0
    assert max(sizes) == 70


def test_a_cut_reply_beside_unfaithful_ones_is_decided_in_the_end(tmp_path: Path) -> None:
    asked = 0

    def say(body: dict[str, Any]) -> Said:
        nonlocal asked
        if "Page" not in (said := _clean(body)):
            return Said(said)
        asked += 1
        return Said(said, finish_reason="length") if asked == 1 else Said("Of its own.")

    with judge_server(say) as server:
        stages = _stages(tmp_path, server.address, rows=1, attempts=2)
        assert run_stages(tmp_path / "run", stages)[0] == 0  # in its own second go
    assert asked == 4
    assert data_of(tmp_path / "run", "clean")["kept"] == 1
    assert [row["text"] for row in rows_of(tmp_path / "run", "clean")] == [_page(0)]


def test_an_unfaithful_reply_is_sampled_anew_with_another_seed(tmp_path: Path) -> None:
    seeds = dict[str, list[int]]()

    def say(body: dict[str, Any]) -> Said:
        own = seeds.setdefault(said := _clean(body), [])
        own.append(body.get("seed"))
        return Said(said.replace("a^2", "a^3") if len(own) < 3 else said)

    data, asked = _run(tmp_path, say)
    assert asked == 9 and data["counts"]["rewrite/replies"] == 9
    assert all(len(set(own)) == 3 for said, own in seeds.items() if said != "ready")
    assert all("a^2" in row["text"] for row in rows_of(tmp_path / "run", "clean"))


@pytest.mark.parametrize("otherwise", ["restore", "remove"])
def test_a_model_that_corrupts_every_page_changes_none(tmp_path: Path, otherwise: str) -> None:
    def say(body: dict[str, Any]) -> Said:
        return Said(_clean(body).replace("twice the side", "three times the side"))

    if otherwise == "restore":
        data, _ = _run(tmp_path, say)
        assert data["counts"][f"rewrite/as it was: {OWN_WORDS}"] == 3
        texts = [row["text"] for row in rows_of(tmp_path / "run", "clean")]
        assert texts == [_page(n) for n in range(3)]
    else:
        data, _ = _run(tmp_path, say, otherwise=otherwise)
        assert data["removed"] == {f"rewrite: {OWN_WORDS}": 3} and data["kept"] == 0


@pytest.mark.parametrize("broken", ["cut", "dead"])
def test_a_cut_reply_and_a_dead_server_decide_nothing(tmp_path: Path, broken: str) -> None:
    ill = True

    def say(body: dict[str, Any]) -> Said:
        said = _clean(body)
        if ill and "Page 1" in said:
            return Said(said, finish_reason="length") if broken == "cut" else Said(status=500)
        return Said(said)

    with judge_server(say) as server:
        stages, run = _stages(tmp_path, server.address), tmp_path / "run"
        with pytest.raises(UserError, match="1 of 3 rows are without a decision"):
            run_stages(run, stages)
        before, ill = len(server.asked), False
        assert run_stages(run, stages)[0] == 0
        # The word at the start, and the one page: what had come is in the log.
        assert len(server.asked) == before + 2
    assert [row["text"] for row in rows_of(run, "clean")] == [
        f"Page {n} says this.\n\n{MATTER}" for n in range(3)
    ]


def test_a_lost_shard_is_made_again_from_the_replies_that_came(tmp_path: Path) -> None:
    ill, turn = True, iter(range(1000))

    def say(body: dict[str, Any]) -> Said:  # never the same twice
        said = _clean(body)
        lost = ill and "Page 2" in said
        return Said(status=500) if lost else Said(said + "\n" * next(turn))

    with judge_server(say) as server:
        stages, run = _stages(tmp_path, server.address), tmp_path / "run"
        with pytest.raises(UserError, match="1 of 3 rows"):
            run_stages(run, stages)
        for path in (run / "clean/shards").iterdir():
            path.unlink()
        before, ill = len(server.asked), False
        assert run_stages(run, stages)[0] == 0
        assert len(server.asked) == before + 2 and len(rows_of(run, "clean")) == 3


def test_a_server_that_is_not_there_is_one_line_before_any_page(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="step rewrite: the model at .* does not answer"):
        run_stages(tmp_path / "run", _stages(tmp_path, "http://127.0.0.1:9/v1#none"))
