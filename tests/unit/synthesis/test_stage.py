"""The stage: shards that account for every row, kills and dead servers that lose and double none."""

import json
import os
import signal
import time
from argparse import ArgumentParser
from collections import Counter
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import pytest

from data_mix.shards import Item, Kept, ShardFacts, ShardWriter, read_shard, shard_files
from evals.synthesis.config import SynthesizeConfig
from evals.synthesis.stage import read_seeds
from scripts.run_stage import arguments
from scripts.run_stage import run as run_stage
from tests import tiny
from tests.scripted_server import serving
from tests.small_disk import small_disk
from workbench.command import finish
from workbench.errors import UserError

ROWS = 24


def answer(body: dict[str, Any]) -> str:
    """Writes and solves; a third of the solvers' replies is wrong, and every sixth problem is none. All of
    it by the request alone, seed included."""
    said, seed = body["messages"][-1]["content"], int(body.get("seed", 0))
    if "Here is a problem" in said:
        number = int(sha256(said.encode()).hexdigest()[:6], 16)
        if number % 6 == 0:
            return "I would rather not."
        return f"Problem: In box number {number} lie as many coins as its number says. How many?"
    number = int(said.split("box number ")[1].split()[0]) if "box number" in said else 0
    return f"It is \\boxed{{{number if Random(seed).random() < 0.67 else number + 1 + seed % 9}}}."


def recipe(folder: Path, address: str, **changes: Any) -> Path:
    """A recipe of one stage over a file of problems."""
    folder.mkdir(parents=True, exist_ok=True)
    seeds = folder / "seeds.jsonl"
    lines = [
        json.dumps({"text": f"Tom has {n} apples and eats {n // 2}. How many are left?"})
        for n in range(ROWS)
    ]
    seeds.write_text("\n".join(lines), encoding="utf-8")
    stage = {
        "kind": "synthesize",
        "seeds": {"type": "jsonl", "path": str(seeds), "form": "text", "column": "text"},
        "task": {"type": "stem", "prompts": ["similar", "harder"], "answers": {"samples": 4, "at_least": 3}},
        "models": [{"endpoint": address, "max_tokens": 200, "open_requests": 4}],
        "seeds_per_shard": 8,
        **changes,
    }  # fmt: skip
    return tiny.write_recipe(folder, {"made": stage}, cluster={"backend": "local"})


def run(path: Path) -> int:
    parser = ArgumentParser()
    arguments(parser)
    args = parser.parse_args(["all", "--recipe", str(path)])
    return finish(lambda: run_stage(args))


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for file in shard_files(folder / "runs/tiny/made") for row in read_shard(file)]


def facts_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = tiny.manifest(folder / "runs/tiny", "made")["outputs"]
    return found


def files_of(folder: Path) -> dict[str, str]:
    """Shards and what was removed, by digest: the same work gives the same files."""
    stage = folder / "runs/tiny/made"
    return {
        str(p.relative_to(stage)): sha256(p.read_bytes()).hexdigest()
        for what in ("shards/*.parquet", "removed/*")
        for p in sorted(stage.glob(what))
    }


def test_rows_in_are_rows_out_and_removed_and_failed(tmp_path: Path) -> None:
    with serving(answer) as (address, asked):
        assert run(recipe(tmp_path, address)) == 0
        first = len(asked)
        assert run(recipe(tmp_path, address)) == 0 and len(asked) == first  # done: nothing is asked
    data = facts_of(tmp_path)["data"]
    assert data["rows_in"] == 2 * ROWS == data["kept"] + sum(data["removed"].values())
    assert not data["failed"] and data["shards"] == 3
    assert {reason.split(": ")[1] for reason in data["removed"]} <= {"no sentence", "vote"}
    rows = rows_of(tmp_path)
    assert len(rows) == data["rows_out"] == len({row["id"] for row in rows})
    for row in rows:
        number = row["problem"].split("box number ")[1].split()[0]
        assert row["check"] == {"kind": "math", "reference": number, "options": {}}
        assert row["votes"] >= 3 and row["messages"][-1]["content"] == f"It is \\boxed{{{number}}}."
    cost = facts_of(tmp_path)["cost"]["scripted"]
    assert cost["replies"] == first and cost["cut"] == 0


def test_the_server_dies_in_the_middle_and_the_same_command_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(answer) as (address, calm):
        assert run(recipe(tmp_path / "calm", address)) == 0
    count, dead = [0], [True]

    def dying(body: dict[str, Any]) -> str | tuple[int, Any]:
        count[0] += 1
        if dead[0] and count[0] > 60:
            return 400, {"error": {"message": "the model was unloaded"}}
        return answer(body)

    with serving(dying) as (address, asked):
        path = recipe(tmp_path / "dying", address)
        assert run(path) == 2
        line = capsys.readouterr().err.strip().splitlines()[-1]
        assert "answers no more" in line and "the model was unloaded" in line
        dead[0] = False
        refused = len(asked)
        assert run(path) == 0
    # Those that were refused are asked again, and no other.
    assert len(asked) - refused == len(calm) - (60 - 3)
    assert [r | {"writer": ""} for r in rows_of(tmp_path / "dying")] == [
        r | {"writer": ""} for r in rows_of(tmp_path / "calm")
    ]


def test_a_cut_reply_is_failed_and_asked_again_by_the_same_command(tmp_path: Path) -> None:
    whole = [False]

    def cutting(body: dict[str, Any]) -> str | tuple[int, Any]:
        said = answer(body)
        if (
            "Here is a problem" in body["messages"][-1]["content"]
            and "Tom has 3 apples" in body["messages"][-1]["content"]
            and not whole[0]
        ):
            choice = {
                "message": {"role": "assistant", "content": said[:20]},
                "finish_reason": "length",
            }
            return 200, {"choices": [choice], "usage": {"completion_tokens": 9}}
        return said

    with serving(cutting) as (address, _):
        path = recipe(tmp_path, address)
        assert run(path) == 2  # 2 of 48 rows are more than max_failed
        (place,) = (tmp_path / "runs/tiny/made/failed").glob("*.jsonl")
        failed = place.read_text().splitlines()
        assert len(failed) == 2 and all("was cut" in json.loads(line)["reason"] for line in failed)
        whole[0] = True
        assert run(path) == 0
    data = facts_of(tmp_path)["data"]
    assert not data["failed"] and data["rows_in"] == 48 == data["kept"] + sum(
        data["removed"].values()
    )
    assert not place.exists()


@pytest.mark.parametrize(
    ("made", "words"),
    [
        ("", "no problem alone"),
        ("Das kann ich nicht sagen, denn es ist zu schwer.\nAnswer: 4", "no problem alone"),
        ((200, {"choices": []}), "returned no choice"),
        ((200, "nonsense"), "in place of an object"),
    ],
)
def test_a_server_that_gives_nothing_ends_in_one_line(
    made: Any, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serving(lambda body: made) as (address, _):
        assert run(recipe(tmp_path, address)) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in line


@pytest.mark.stress
def test_kill_9_and_the_same_command_give_the_undisturbed_files(tmp_path: Path) -> None:
    """Three kills of the process group at random counts of replies: shards are equal to the bit, and no
    reply that had come is asked for again."""

    def slowly(body: dict[str, Any]) -> str:
        time.sleep(0.01)
        return answer(body)

    with serving(slowly) as (address, asked):
        assert run(recipe(tmp_path / "calm", address)) == 0
        calm = Counter(json.dumps(body, sort_keys=True) for body in asked)
        asked.clear()
        path, rng = recipe(tmp_path / "killed", address), Random(7)
        for number in range(3):
            process = tiny.start("all", "--recipe", str(path))
            wanted = len(asked) + rng.randint(10, 50)
            tiny.wait_until(
                lambda n=wanted, p=process: len(asked) >= n or p.poll() is not None,
                f"kill {number}",
            )  # type: ignore[misc]
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        assert run(path) == 0
        again = Counter(json.dumps(body, sort_keys=True) for body in asked)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "calm")
    assert set(again) == set(calm)
    # Three kills, four requests in flight at each.
    assert sum(again.values()) - sum(calm.values()) <= 3 * 4
    log = [
        json.loads(line)["key"]
        for p in (tmp_path / "killed/runs/tiny/made/replies").glob("*")
        for line in p.read_text().splitlines()
    ]
    assert len(log) == len(set(log))


@pytest.mark.stress
@pytest.mark.parametrize("room", [0, 8, 30])
def test_a_full_disk_loses_no_reply_and_the_same_command_goes_on(
    room: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with small_disk(tmp_path / "disk") as disk:
        fill = [False]

        def filling(body: dict[str, Any]) -> str:
            if fill[0] and len(asked) == 60:
                disk.leave(room)
            return answer(body)

        with serving(filling) as (address, asked):
            assert run(recipe(tmp_path / "calm", address)) == 0
            calm = Counter(json.dumps(body, sort_keys=True) for body in asked)
            asked.clear()
            fill[0], path = True, recipe(disk.place / "run", address)
            capsys.readouterr()
            assert run(path) == 2
            line = capsys.readouterr().err.strip().splitlines()[-1]
            assert "could not be written in full" in line and "continues" in line
            disk.grow()
            fill[0] = False
            assert run(path) == 0
            again = Counter(json.dumps(body, sort_keys=True) for body in asked) - calm
        assert files_of(disk.place / "run") == files_of(tmp_path / "calm")
        assert sum(again.values()) <= 4 + 1  # what was open, and the reply that could not be kept


def test_seeds_of_a_column_that_a_stage_has_not_are_refused(tmp_path: Path) -> None:
    stage = tmp_path / "pages"
    writer = ShardWriter(stage, ShardFacts(0), {"id": "text", "text": "text"})
    writer.put(Item(0, {}), Kept([{"id": "a", "text": "Tom has 3 apples."}]))
    writer.close()
    raw = {
        "kind": "synthesize",
        "seeds": {"type": "shards", "stage": str(stage), "where": {"langage": "en"}},
        "task": {"type": "stem", "prompts": ["similar"], "answers": {"samples": 4, "at_least": 3}},
        "models": [{"endpoint": "http://localhost:1/v1#a"}],
    }
    config = SynthesizeConfig.read(raw, where="x")
    with pytest.raises(
        UserError, match="where names column 'langage', which stage 'pages' has not"
    ):
        read_seeds(config, 0)
