"""Environments that others serve, each in a process of its own: an MCP server, one of NeMo Gym's."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from transformers import PreTrainedTokenizerFast

from engine.protocol import Sampling
from engine.scripted import ScriptedEngine
from environments.catalogue import make_environment, take_tasks
from environments.config import OwnTasks
from environments.protocol import EnvironmentFailed, calling
from environments.rollout import Player
from tests.unit.conftest import tokenizer
from workbench.chat import stop_ids
from workbench.errors import UserError
from workbench.separate import separate_folder

__all__ = ["tokenizer"]
ROOT = Path(__file__).parents[2]
MCP = "environments.adapters.mcp:McpServer"
GYM = "environments.adapters.gym:GymServer"


def _player(tokenizer: Any, solve: Any) -> Player:
    def script(prompt: Sequence[int], sample: int) -> list[int]:
        calls = solve(tokenizer.decode(prompt), sample)
        said = f"<TOOLCALL>{json.dumps(calls)}</TOOLCALL>" if calls else "Done."
        ids = tokenizer.encode(f"hm\n</think>\n\n{said}\n", add_special_tokens=False)
        return [*ids, *stop_ids(tokenizer)]

    engine = ScriptedEngine(script, lambda ids: tokenizer.decode(ids, skip_special_tokens=True))
    return Player(engine, tokenizer, Sampling(max_tokens=300), True, 4, 8000)


def test_an_mcp_servers_tools_are_played_over_stdio(tokenizer: PreTrainedTokenizerFast) -> None:
    config = OwnTasks(
        type=MCP, rows=f"{ROOT}/docs/examples/shelf.jsonl", timeout_s=30,
        options={"command": [sys.executable, f"{ROOT}/docs/examples/shelf_server.py"], "judge": "judge"},
    )  # fmt: skip
    task = next(t for t in take_tasks(config, 4, 1) if "a cup" in t.messages[0]["content"])
    assert [tool["name"] for tool in task.tools] == ["add"]  # neither `setup` nor `judge`
    assert task.tools[0]["parameters"]["required"] == ["thing"]
    things = ["cup", "mug", "plate"]

    def solve(prompt: str, sample: int) -> list[dict[str, Any]]:
        done = "<TOOL_RESPONSE>" in prompt
        return [] if done else [{"name": "add", "arguments": {"thing": things[sample]}}]

    (group,) = _player(tokenizer, solve).play([task], samples=3, seed=1)
    assert [t.success for t in group] == [True, False, False]
    assert [t.messages[2]["content"] for t in group[:2]] == ["2 things", "2 things"]
    assert group[2].messages[2]["content"].startswith('{"error": "')  # it is there already


def test_a_server_that_dies_or_never_starts_is_no_verdict(tmp_path: Path) -> None:
    (tmp_path / "dies.py").write_text(
        "import os\nfrom mcp.server import MCPServer\nserver = MCPServer('dies')\n"
        "@server.tool()\ndef go() -> str:\n    os._exit(1)\nserver.run()\n"
    )
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Go."}\n')
    options: dict[str, Any] = {"command": [sys.executable, f"{tmp_path}/dies.py"], "judge": "go"}
    config = OwnTasks(
        type=MCP, rows=f"{tmp_path}/rows.jsonl", timeout_s=10, options={**options, "judge": "x"}
    )
    (task,) = take_tasks(config, 1, 1)
    world = make_environment(MCP)
    world.reset(task)
    with pytest.raises(EnvironmentFailed, match="step: "):
        world.step(calling({"name": "go", "arguments": {}}))
    assert world.verify().value is None
    gone = config.model_copy(update={"options": {"command": [f"{tmp_path}/none"], "judge": "x"}})
    with pytest.raises(UserError, match="documents: .*did not start"):
        take_tasks(gone, 1, 1)


@pytest.fixture(scope="module")
def counter() -> Iterator[str]:
    """The address of nemo-gym's counter server."""
    folder = separate_folder("resources_servers")
    assert folder is not None, "scripts/setup.sh evals"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [sys.executable, f"{ROOT}/tests/gym_server.py", str(folder.parent), str(port)]
    )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 120
        while server.poll() is None and time.monotonic() < deadline:
            try:
                httpx.get(f"{url}/docs", timeout=5.0)
                break
            except httpx.HTTPError:
                time.sleep(0.1)
        yield url
    finally:
        server.kill()
        server.wait()


def test_a_resource_server_of_nemo_gym_is_played(
    counter: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    folder = separate_folder("resources_servers")
    rows = f"{folder}/example_session_state_mgmt/data/example.jsonl"
    config = OwnTasks(type=GYM, rows=rows, options={"url": counter})
    tasks = take_tasks(config, 3, 1)
    assert {tool["name"] for tool in tasks[0].tools} == {"increment_counter", "get_counter_value"}
    rows_of = {t.messages[0]["content"]: t.data["row"] for t in tasks}

    def solve(prompt: str, sample: int) -> list[dict[str, Any]]:
        row = next(row for asked, row in rows_of.items() if asked in prompt)
        more = row["expected_count"] - row["initial_count"]
        done = prompt.count("<TOOL_RESPONSE>")
        if done == 1 or (done == 0 and sample == 2):  # the third only looks
            return [{"name": "get_counter_value", "arguments": {}}] if sample != 1 else []
        counts: list[Any] = [more, more + 1]
        first = {"name": "increment_counter", "arguments": {"count": counts[sample % 2]}}
        return [first] if done == 0 else []

    groups = _player(tokenizer, solve).play(tasks, samples=3, seed=1)
    # Sessions run side by side and each has a counter of its own.
    assert [[t.verdict.value for t in group] for group in groups] == [[1.0, 0.0, 0.0]] * 3  # type: ignore[union-attr]
    right = groups[0][0]
    expected = rows_of[right.messages[0]["content"]]["expected_count"]
    assert json.loads(right.messages[4]["content"]) == {"count": expected}


def test_what_the_server_cannot_read_is_the_models_fault_and_its_absence_is_not(
    counter: str,
) -> None:
    folder = separate_folder("resources_servers")
    rows = f"{folder}/example_session_state_mgmt/data/example.jsonl"
    config = OwnTasks(type=GYM, rows=rows, options={"url": counter})
    (task,) = take_tasks(config, 1, 1)
    world = make_environment(GYM)
    world.reset(task)
    (said,) = world.step(
        calling({"name": "increment_counter", "arguments": {"count": "x"}})
    ).messages
    assert "valid integer" in said["content"] and said["content"].startswith('{"error": ')
    assert world.verify().value == 0.0
    away = config.model_copy(update={"options": {"url": "http://127.0.0.1:9"}})
    (task,) = take_tasks(away, 1, 1)
    with pytest.raises(EnvironmentFailed, match=r"127.0.0.1:9/seed_session does not answer"):
        world.reset(task)


TOY = '''
import verifiers as vf
from datasets import Dataset
from verifiers.envs.tool_env import ToolEnv
from verifiers.rubrics.rubric import Rubric

def double(number: int) -> int:
    """Twice a number.

    Args:
        number: which one
    """
    return 2 * number

def load_environment(broken: bool = False):
    def right(completion, answer):
        if broken:
            return {}["score"]
        return 1.0 if any(m["role"] == "tool" and m["content"] == answer for m in completion) else 0.0

    def short(completion):
        return float(len(completion) <= 3)

    rows = [{"question": f"Double {n}.", "answer": str(2 * n)} for n in range(1, 6)]
    return ToolEnv(dataset=Dataset.from_list(rows), tools=[double], max_turns=4,
                   system_prompt="Use the tool.", rubric=Rubric(funcs=[right, short], weights=[0.75, 0.25]))
'''


def test_an_environment_of_verifiers_is_played(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "toy_doubles.py").write_text(TOY)
    monkeypatch.chdir(tmp_path)  # where the command is given: a module beside it is found
    where = "environments.adapters.verifiers:Verifiers"
    config = OwnTasks(type=where, options={"env": "toy-doubles"}, timeout_s=30)
    tasks = take_tasks(config, 2, 1)
    assert [m["role"] for m in tasks[0].messages] == ["system", "user"]
    assert [tool["name"] for tool in tasks[0].tools] == ["double"]

    def solve(prompt: str, sample: int) -> list[dict[str, Any]]:
        number = int(prompt.rpartition("Double ")[2].partition(".")[0])
        if "<TOOL_RESPONSE>" in prompt:
            return []
        return [{"name": "double", "arguments": {"number": number + sample}}]

    groups = _player(tokenizer, solve).play(tasks, samples=2, seed=1)
    found = [[t.verdict for t in group] for group in groups]
    assert [[v.value for v in group] for group in found] == [[1.0, 0.25]] * 2  # type: ignore[union-attr]
    assert found[0][1].parts == {"right": 0.0, "short": 1.0}  # type: ignore[union-attr]
    assert groups[0][0].messages[3]["content"] == tasks[0].data["row"]["answer"]
    # verifiers makes a 0 of a reward function that raises; here the episode has none.
    broken = config.model_copy(update={"options": {"env": "toy-doubles", "args": {"broken": True}}})
    (task, _) = take_tasks(broken, 2, 1)
    ((one,),) = _player(tokenizer, solve).play([task], samples=1, seed=1)
    assert one.verdict is not None and one.verdict.value is None
    assert "reward right: KeyError" in one.verdict.parts["reason"]
