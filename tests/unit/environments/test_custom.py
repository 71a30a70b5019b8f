"""A user's own environment in the loop: whole episodes in processes of their own, and what breaks there."""

import errno
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

import evals.run
from engine.protocol import Sampling
from engine.scripted import ScriptedEngine
from environments.catalogue import make_environment, take_tasks
from environments.config import OwnTasks
from environments.protocol import EnvironmentFailed, Task, calling
from environments.rollout import Player
from evals.config import EvalsConfig
from evals.inputs import check_evals
from evals.jobs import jobs_of
from evals.responder import LocalResponder
from evals.run import evaluate
from evals.samples import PendingSample
from reward import sessions
from rl.config import GrpoConfig
from rl.inputs import check_grpo
from rl.sample import Sampler
from workbench.chat import stop_ids
from workbench.content import Contents, places_read
from workbench.errors import UserError
from workbench.rundir import read_json_lines

LAMPS = "docs/examples/lamps.py:Lamps"


def _engine(tokenizer: Any, solve: Any) -> ScriptedEngine:
    """solve(prompt's text, sample): the calls of the next reply."""

    def script(prompt: Sequence[int], sample: int) -> list[int]:
        calls = solve(tokenizer.decode(prompt), sample)
        said = f"<TOOLCALL>{json.dumps(calls)}</TOOLCALL>" if calls else "Done."
        text = f"hm\n</think>\n\n{said}\n"
        return [*tokenizer.encode(text, add_special_tokens=False), *stop_ids(tokenizer)]

    return ScriptedEngine(script, lambda ids: tokenizer.decode(ids, skip_special_tokens=True))


def _lighter(tasks: Sequence[Task]) -> Any:
    """Samples of even number light the lamp that was asked for, the others one step brighter."""

    def solve(prompt: str, sample: int) -> list[dict[str, Any]]:
        if "<TOOL_RESPONSE>" in prompt:
            return []
        row = next(t.data["row"] for t in tasks if t.data["row"]["prompt"] in prompt)
        level = row["level"] + sample % 2
        return [{"name": "set_lamp", "arguments": {"lamp": row["lamp"], "level": level}}]

    return solve


def test_the_example_trains_and_is_evaluated(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tasks = take_tasks(OwnTasks(type=LAMPS), 4, 1)
    assert tasks[0].messages[0]["content"].startswith("Set the ")
    sampler = Sampler(
        _engine(tokenizer, _lighter(tasks)), tokenizer, Sampling(max_tokens=100, n=2), True, "mean",
        max_turns=3,
    )  # fmt: skip
    groups = sampler.roll_out(tasks, seed=1)
    # A brighter one than 99 is refused, which leaves the lamp off: wrong as well.
    assert [[r.reward for r in group] for group in groups] == [[1.0, 0.0]] * 4
    assert [len(r.turns) for group in groups for r in group] == [2] * 8
    tools = {"lamps": OwnTasks(type=LAMPS, split="test")}
    config = EvalsConfig(kind="evals", needs=["m"], environments=tools, benchmarks=["lamps"])
    (job,) = jobs_of(config.model_copy(update={"limit": 5, "samples": 2}), seed=3)
    held = take_tasks(tools["lamps"], 5, 2508)
    responder = LocalResponder(
        tokenizer, "m", lambda longest: _engine(tokenizer, _lighter(held)), context=8192  # type: ignore[arg-type]
    )  # fmt: skip
    (result,) = evaluate(responder, [job], model="m", out=tmp_path, data=tmp_path)
    assert (result["n"], result["failed"]) == (5, 0)
    assert result["metrics"]["accuracy"]["value"] == 0.5  # samples of even number
    assert not {t.messages[0]["content"] for t in held} & {t.messages[0]["content"] for t in tasks}


HEARS = """
class Hears:
    def tasks(self, split, n): return ({"prompt": f"Say {i}.", "id": str(i)} for i in range(n))
    def reset(self, task): self.heard = {}
    def step(self, reply):
        self.heard = {"text": str(reply), "answer": reply.answer, "thinking": reply.thinking}
    def verify(self): return {"value": 1.0, **self.heard}
"""


def test_an_evaluation_hands_over_the_reply_as_training_does(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    (tmp_path / "hears.py").write_text(HEARS)
    own = OwnTasks(type=f"{tmp_path}/hears.py:Hears")

    def silent(prompt: str, sample: int) -> list[dict[str, Any]]:
        return []

    player = Player(_engine(tokenizer, silent), tokenizer, Sampling(max_tokens=100), True, 2)
    ((trained,),) = player.play(take_tasks(own, 1, 1), samples=1, seed=1)
    config = EvalsConfig(
        kind="evals", needs=["m"], environments={"hears": own}, benchmarks=["hears"], limit=1
    )
    responder = LocalResponder(
        tokenizer, "m", lambda longest: _engine(tokenizer, silent), context=8192  # type: ignore[arg-type]
    )  # fmt: skip
    evaluate(responder, jobs_of(config, seed=1), model="m", out=tmp_path, data=tmp_path)
    (row,) = read_json_lines(tmp_path / "hears" / "samples.jsonl")
    assert trained.verdict is not None
    assert row["why"] == trained.verdict.parts
    assert (row["why"]["thinking"], row["why"]["answer"]) == ("hm", "Done.")


BAD = """
import os, sys, time
SEEN = []
class Bad:
    def tasks(self, split): yield {"prompt": f"What is {split}?"}
    def reset(self, task):
        SEEN.append(task)
        self.seen = len(SEEN)
    def fine(self) -> str: return f"seen {self.seen}"
    def hang(self) -> str:
        while True: pass
    def doze(self) -> str: time.sleep(60)
    def leave(self) -> str: sys.exit(0)
    def crash(self) -> str: os._exit(3)
    def raises(self) -> str: return {}["key"]
    def grow(self) -> str: return str(len(bytearray(8 << 30)))
    def flood(self) -> str:
        for _ in range(64): print("x" * (1 << 20))
        return "y" * (1 << 20)
    def fork(self) -> str:
        child = os.fork()
        if child == 0:
            time.sleep(300)
        return str(child)
    def verify(self): return 1.0
"""


def _bad_task(folder: Path) -> Task:
    (folder / "bad.py").write_text(BAD)
    config = OwnTasks(type=f"{folder}/bad.py:Bad", timeout_s=0.4, result_chars=100)
    (task,) = take_tasks(config, 1, 1)
    return task


def test_what_breaks_is_a_status_and_leaves_the_others_alone(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    names = ("fine", "hang", "doze", "leave", "crash", "raises", "grow", "flood")

    def solve(prompt: str, sample: int) -> list[dict[str, Any]]:
        return [] if "<TOOL_RESPONSE>" in prompt else [{"name": names[sample], "arguments": {}}]

    player = Player(_engine(tokenizer, solve), tokenizer, Sampling(max_tokens=100), True, 4, 8000)
    (group,) = player.play([_bad_task(tmp_path)], samples=len(names), seed=1)
    found = {
        name: (t.verdict.value, t.verdict.status, t.verdict.parts.get("reason", ""))  # type: ignore[union-attr]
        for name, t in zip(names, group, strict=True)
    }
    assert found["fine"] == (1.0, "ok", "")
    assert group[0].messages[2]["content"] == "seen 1"  # no episode saw another's
    assert found["hang"] == (None, "timeout", "step: stopped after 0.4 s")
    assert found["doze"] == (None, "timeout", "step: stopped after 0.4 s")
    assert found["leave"][:2] == found["crash"][:2] == (None, "error")
    assert "exit 3" in found["crash"][2] and "its process died" in found["leave"][2]
    assert found["raises"][0] is None and "tool raises: KeyError: 'key'" in found["raises"][2]
    assert found["grow"][0] is None and "memory" in found["grow"][2].lower()
    assert found["flood"][0] == 1.0
    assert group[7].messages[2]["content"] == f"{'y' * 100} ... (1,048,576 characters in all)"


def test_what_it_forked_ends_with_the_episode(tmp_path: Path) -> None:
    task = _bad_task(tmp_path)
    world = make_environment(task.environment)
    world.reset(task)
    child = world.step(calling({"name": "fork", "arguments": {}})).messages[0]["content"]
    assert Path(f"/proc/{child}").exists()
    del world
    deadline = time.monotonic() + 10
    while _lives(Path(f"/proc/{child}/stat")) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not _lives(Path(f"/proc/{child}/stat"))


def _lives(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_an_evaluated_episode_ends_with_its_row(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    """A thousand of them, each with its process and an open file, ended every living one."""
    _bad_task(tmp_path)
    own = OwnTasks(type=f"{tmp_path}/bad.py:Bad")
    config = EvalsConfig(
        kind="evals", needs=["m"], environments={"bad": own}, benchmarks=["bad"], samples=4
    )

    def solve(prompt: str, sample: int) -> list[dict[str, Any]]:
        return [] if "<TOOL_RESPONSE>" in prompt else [{"name": "fork", "arguments": {}}]

    engine = _engine(tokenizer, solve)
    responder = LocalResponder(tokenizer, "m", lambda longest: engine, context=8192)  # type: ignore[arg-type]
    living: list[int] = []
    begun: list[PendingSample] = []
    take = evals.run.take

    def taken(sample: PendingSample, *more: Any) -> Any:
        row = take(sample, *more)
        begun.append(sample)
        if row is not None:
            assert sample.episode is not None and row["value"] == 1.0
            living.append(sample.episode.world._session is not None)  # type: ignore[attr-defined]
        return row

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(evals.run, "take", taken)
        evaluate(responder, jobs_of(config, seed=1), model="m", out=tmp_path, data=tmp_path)
    assert len(begun) == 8 and living == [False] * 4


def test_no_more_open_files_end_no_living_episode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = _bad_task(tmp_path)
    first, second = make_environment(task.environment), make_environment(task.environment)
    first.reset(task)

    def full(*_: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patched:
        patched.setattr(sessions.socket, "socketpair", full)
        patched.setattr(sessions.resource, "setrlimit", lambda *_: None)
        with pytest.raises(EnvironmentFailed, match="Too many open files"):
            second.reset(task)
    assert first.step(calling({"name": "fine", "arguments": {}})).messages[0]["content"] == "seen 1"
    # Once there is room again, the same process forks the next one.
    second.reset(task)
    assert first.verify().value == second.verify().value == 1.0


def test_an_episode_has_so_many_seconds_in_all(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(
        "import time\nclass Slow:\n    def reset(self): pass\n"
        "    def nap(self) -> None: time.sleep(0.15)\n    def verify(self): return 1\n"
    )
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Sleep.", "id": 4, "tools": ["nap"]}\n')
    where = f"{tmp_path}/slow.py:Slow"
    config = OwnTasks(type=where, rows=f"{tmp_path}/rows.jsonl", episode_s=0.25)
    (task,) = take_tasks(config, 1, 1)
    assert task.id == "4"
    world = make_environment(task.environment)
    world.reset(task)
    with pytest.raises(EnvironmentFailed, match=r"over 0.25 s") as caught:
        for _ in range(3):
            world.step(calling({"name": "nap", "arguments": {}}))
    assert caught.value.verdict.status == "timeout"
    assert world.verify().status == "error"


GOOD = "class C:\n    def __init__(self, *, most=3): pass\n    def reset(self): pass\n" \
       "    def go(self) -> str: return ''\n    def verify(self): return 1\n"  # fmt: skip


@pytest.mark.parametrize(
    ("body", "given", "says"),
    [
        ("import not_there", {}, "not_there"),
        ("class D: pass", {}, "has no 'C'; it has D"),
        ("class C: pass", {}, "no method reset"),
        (GOOD, {"mos": 4}, "unknown option.*'mos'; did you mean 'most'"),
        (GOOD, {"most": 4}, "has no tasks: give `rows: FILE.jsonl`"),
        (GOOD, {"rows": "none.jsonl"}, "there is no file 'none.jsonl'"),
    ],
)
def test_what_cannot_be_played_is_one_line_before_anything_is_sampled(
    tmp_path: Path, body: str, given: dict[str, Any], says: str
) -> None:
    (tmp_path / "c.py").write_text(body)
    tasks = {"type": f"{tmp_path}/c.py:C", **given}
    source = {"type": "environment", "tasks": tasks}
    config = GrpoConfig.read(
        {"kind": "grpo", "needs": ["sft"], "prompts": source, "held_out": source}, where="grpo"
    )
    with pytest.raises(UserError, match=says) as caught:
        check_grpo(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("[1]", "line 1 is not a JSON object but list"),
        ("{", "line 1 is not JSON"),
        ('{"prompt": "Wie heiß?"}'.encode("latin-1"), "line 1 is not JSON .*utf-8"),
        ('{"prompt": "x", "tools": "set_lamp"}', "line 1: tools is 'set_lamp'; give a list"),
        ('{"prompt": "x", "tools": [3]}', "line 1: a tool is 3; give a name"),
        ('{"prompt": "x", "tools": [{"type": "function"}]}', "line 1: a tool is .*give a name"),
        ('{"id": 1}', "line 1: prompt is None"),
        ('{"prompt": [{"role": "assistant", "content": "x"}]}', "end with the user's"),
        ('{"prompt": "x", "tools": ["gone"]}', "unknown tool.*line 1.*'gone'"),
        ('{"prompt": "x"}', "has 1 tasks of split 'train', 2 were asked for"),
    ],
)
def test_a_row_that_is_no_task_names_its_place(tmp_path: Path, row: str | bytes, says: str) -> None:
    (tmp_path / "rows.jsonl").write_bytes(row.encode() if isinstance(row, str) else row)
    config = OwnTasks(type=LAMPS, rows=f"{tmp_path}/rows.jsonl")
    with pytest.raises(UserError, match=says):
        take_tasks(config, 2, 1)


FIELD = """
class F:
    def reset(self, task): pass
    def documents(self):
        return [{"type": "function", "function": {"name": "far", "description": "d", "parameters": {}}}]
    def call(self, name, arguments): return "ok"
    def verify(self): return 1
    def task_of(self, row): return row if row["prompt"] else None
"""


def test_rows_and_tools_as_others_write_them(tmp_path: Path) -> None:
    """A byte order mark, a line separator inside a text, tools in OpenAI's form, and null for all."""
    near = {"type": "function", "function": {"name": "near", "description": "n", "parameters": {}}}
    rows: list[dict[str, Any]] = [
        {"prompt": "a\u2028b", "tools": None},
        {"prompt": "c", "tools": [near, "far"]},
    ]
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8-sig")
    (tmp_path / "f.py").write_text(FIELD)
    config = OwnTasks(type=f"{tmp_path}/f.py:F", rows=f"{tmp_path}/rows.jsonl")
    found = {task.messages[0]["content"]: task.tools for task in take_tasks(config, 2, 1)}
    far = {"name": "far", "description": "d", "parameters": {}}
    assert found == {"a\u2028b": [far], "c": [near["function"], far]}
    (tmp_path / "rows.jsonl").write_text('{"prompt": ""}\n')
    with pytest.raises(UserError, match="line 1: task_of returned None; it must return a mapping"):
        take_tasks(config, 1, 1)


def test_its_file_counts_as_content_and_a_bad_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "c.py").write_text(GOOD)
    config = EvalsConfig(
        kind="evals", benchmarks=["x"], environments={"x": OwnTasks(type=f"{tmp_path}/c.py:C")}
    )
    ((mark, value),) = places_read(config)
    first = Contents(tmp_path).of(mark, value)
    (tmp_path / "c.py").write_text(GOOD + "# more\n")
    assert Contents(tmp_path).of(mark, value) != first
    for name in ("house", "a/b", "a@4"):
        wrong = config.model_copy(update={"environments": {name: OwnTasks(type=LAMPS)}})
        with pytest.raises(UserError, match="give another"):
            check_evals(wrong)


@pytest.mark.parametrize("group", [-1, 0, 1])
def test_a_group_that_means_every_process_is_never_killed(
    group: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """killpg(1) is kill(-1): all that this user runs."""
    killed: list[int] = []
    monkeypatch.setattr(os, "killpg", lambda group, _: killed.append(group))
    with pytest.raises(ValueError, match="is not a session's process group"):
        sessions._kill(group)
    assert killed == []
