"""An environment's own solutions as training samples: every reply behind what the tools really answered."""

from pathlib import Path

import pytest

import environments.solutions
from environments.config import EnvironmentSource, HouseTasks, OwnTasks
from environments.house import tasks
from environments.protocol import Task
from environments.solutions import solutions, solved
from sft.config import SftConfig
from sft.examples import SampleAccounting
from sft.inputs import check_sft
from sft.stage import collect
from workbench.conversation import Conversation
from workbench.errors import UserError

SOLVED = """
class Counter:
    def __init__(self, *, wrong=False): self.wrong = wrong
    def tasks(self): yield from ({"prompt": f"Count to {n}.", "n": n} for n in range(1, 4))
    def reset(self, n): self.count, self.n = 0, n
    def add(self, by: int) -> str:
        self.count += by
        return f"now {self.count}"
    def verify(self): return self.count == self.n
    def solve(self): return [[{"name": "add", "arguments": {"by": self.n + self.wrong}}]]
"""


def _source(folder: Path, **options: object) -> EnvironmentSource:
    (folder / "counter.py").write_text(SOLVED)
    tasks = OwnTasks(type=f"{folder}/counter.py:Counter", options=options)
    return EnvironmentSource(type="environment", tasks=tasks)


def test_each_reply_stands_behind_the_tools_own_answers(tmp_path: Path) -> None:
    samples = solutions(_source(tmp_path), 4, 1)
    assert [s.messages[-1]["content"] for s in samples] == ["", "Done.", "", "Done."]
    calls = [s.messages[-1]["tool_calls"][0]["function"] for s in samples[::2]]
    assert calls == [{"name": "add", "arguments": {"by": n}} for n in (1, 2)]
    assert samples[3].messages[2] == {"role": "tool", "content": "now 2"}
    assert not samples[0].thinking and samples[0].tools[0]["name"] == "add"  # type: ignore[index]
    with pytest.raises(UserError, match="its own solution does not solve it"):
        solutions(_source(tmp_path, wrong=True), 2, 1)
    with pytest.raises(UserError, match="has 3 tasks"):
        solutions(_source(tmp_path), 8, 1)


def test_a_task_is_solved_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def counted(task: Task) -> list[Conversation]:
        asked.append(task.id)
        return solved(task)

    monkeypatch.setattr(environments.solutions, "solved", counted)
    assert len(solutions(_source(tmp_path), 4, 1)) == 4
    assert len(asked) == len(set(asked)) == 2


TOLD = """
class Echo:
    def __init__(self, *, reply="yes"): self.reply = reply
    def tasks(self): yield from ({"prompt": f"Is {n} a number?"} for n in range(3))
    def reset(self, task): pass
    def step(self, reply): self.said = reply.answer
    def verify(self): return self.said == "yes"
    def solve(self): return self.reply if self.reply == "bare" else [self.reply]
"""


def test_a_solution_may_be_a_text(tmp_path: Path) -> None:
    (tmp_path / "echo.py").write_text(TOLD)

    def source(**options: object) -> EnvironmentSource:
        tasks = OwnTasks(type=f"{tmp_path}/echo.py:Echo", options=options)
        return EnvironmentSource(type="environment", tasks=tasks)

    samples = solutions(source(), 3, 1)
    assert [[m["content"] for m in s.messages] for s in samples] == [
        [f"Is {n} a number?", "yes"] for n in range(3)
    ]
    with pytest.raises(UserError, match="its own solution does not solve it"):
        solutions(source(reply="no"), 1, 1)
    with pytest.raises(UserError, match=r"solve\(\) gave the turn 7; give for each turn a text"):
        solutions(source(reply=7), 1, 1)
    with pytest.raises(UserError, match="give a list, one entry for each turn"):
        solutions(source(reply="bare"), 1, 1)


def test_a_class_without_a_solution_is_said(tmp_path: Path) -> None:
    (tmp_path / "mute.py").write_text(TOLD.replace("solve", "unsolved"))
    tasks = OwnTasks(type=f"{tmp_path}/mute.py:Echo")
    with pytest.raises(UserError, match="its own solution: solve"):
        solutions(EnvironmentSource(type="environment", tasks=tasks), 1, 1)


def test_tasks_of_words_and_of_calls_are_taken_until_there_are_enough(tmp_path: Path) -> None:
    """The first makes two samples, so four tasks are tried for seven: three make two each, one makes one."""
    mixed = (
        TOLD.replace("range(3)", "range(4)")
        .replace(
            'def solve(self): return self.reply if self.reply == "bare" else [self.reply]',
            "def solve(self): return [self.reply] * self.turns",
        )
        .replace(
            "def reset(self, task): pass",
            "def reset(self, task): self.turns = 2 - int('1' in task['prompt'])",
        )
    )
    (tmp_path / "mixed.py").write_text(
        mixed.replace(
            "def step(self, reply): self.said = reply.answer",
            """def step(self, reply):
        self.said = reply.answer
        return "Sure?\"""",
        )
    )
    tasks = OwnTasks(type=f"{tmp_path}/mixed.py:Echo")
    samples = solutions(EnvironmentSource(type="environment", tasks=tasks), 7, 1)
    assert len(samples) == 7
    with pytest.raises(UserError, match="gives 7 samples of solutions, 8 were asked for"):
        solutions(EnvironmentSource(type="environment", tasks=tasks), 8, 1)


def test_sft_takes_them_as_a_part() -> None:
    house = HouseTasks(type="house", split="train", requests=(2, 2), offered=3)
    part = {"source": {"type": "environment", "tasks": house.model_dump()}, "samples": 6}
    config = SftConfig.read({"kind": "sft", "needs": ["a"], "parts": {"calls": part}}, where="sft")
    assert check_sft(config) == []
    taken = list(collect(config.parts, 17, SampleAccounting()))
    first = tasks("train", 3, 17, requests=(2, 2), offered=3)[0]
    # Both requests in one reply, and its end.
    assert [c["function"] for c in taken[0].messages[-1]["tool_calls"]] == first.data["calls"]
    assert [m["role"] for m in taken[1].messages] == [
        "user",
        "assistant",
        "tool",
        "tool",
        "assistant",
    ]
