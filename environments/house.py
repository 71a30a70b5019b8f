"""The miniature's environment: a small house whose lights, heating, timers and messages are checked.

Its tools are those of the world's tool-calling domain; a task strings one to three requests together,
so that a model which learned to make one call must learn to make all of them and then stop.
"""

import json
from collections.abc import Sequence
from copy import deepcopy
from itertools import islice
from typing import Any

from data_mix.world.house import ACTIONS, DONE, house_tasks
from data_mix.world.tooluse import CITIES, PEOPLE, ROOMS, TOOLS
from environments.protocol import Step, Task, ToolCall, call_tool, tool_result
from reward.verdict import Verdict, decided
from workbench.chat import Reply

_TOOLS = tuple(tool.name for tool in TOOLS)


class House:
    """The state and its tools; implements environments.protocol.Environment."""

    def __init__(self) -> None:
        self.state: dict[str, Any] = {}
        self._goal: dict[str, Any] = {}
        self._task: Task | None = None

    def reset(self, task: Task) -> None:
        """See protocol."""
        self._task = task
        goal = House()
        goal.state = deepcopy(task.data["start"])
        for call in task.data["calls"]:
            goal._call(call, set(ACTIONS))
        self.state, self._goal = deepcopy(task.data["start"]), goal.state

    def step(self, reply: Reply) -> Step:
        """See protocol. There is one user turn: a reply without a call ends the episode."""
        assert self._task is not None
        calls = reply.tool_calls or []
        offered = {tool["name"] for tool in self._task.tools}
        return Step([self._call(call, offered) for call in calls], done=not calls)

    def verify(self) -> Verdict:
        """See protocol. The order in which timers were set or messages sent does not count."""
        wrong = [key for key, value in self._goal.items() if _bag(self.state[key]) != _bag(value)]
        return decided(not wrong, differs=wrong)

    def gold(self) -> list[list[ToolCall]]:
        """See protocol."""
        assert self._task is not None
        return [list(self._task.data["calls"])]

    def _call(self, call: ToolCall, offered: set[str]) -> dict[str, Any]:
        tools = {name: getattr(self, f"_{name}") for name in _TOOLS}
        answer, _ = call_tool(call, tools, allowed=offered)
        return tool_result(answer)

    def _set_light(self, room: str, level: int) -> str:
        self.state["lights"][_one_of(room, ROOMS)] = _whole(level)
        return DONE

    def _set_heat(self, room: str, degrees: int) -> str:
        self.state["heats"][_one_of(room, ROOMS)] = _whole(degrees)
        return DONE

    def _set_timer(self, minutes: int) -> str:
        self.state["timers"].append(_whole(minutes))
        return DONE

    def _send_message(self, to: str, text: str) -> str:
        self.state["messages"].append([_one_of(to, PEOPLE), str(text)])
        return DONE

    def _call_person(self, name: str) -> str:
        self.state["calls"].append(_one_of(name, PEOPLE))
        return DONE

    def _book_table(self, city: str, people: int) -> str:
        self.state["tables"].append([_one_of(city, CITIES), _whole(people)])
        return DONE

    def _get_weather(self, city: str) -> str:
        return "sun" if len(_one_of(city, CITIES)) % 2 else "rain"

    def _get_time(self, city: str) -> str:
        return f"{8 + CITIES.index(_one_of(city, CITIES))}:00"

    def _translate(self, text: str, language: str) -> str:
        return f"{text} ({language})"

    def _find_train(self, start: str, goal: str) -> str:
        return f"{_one_of(start, CITIES)} to {_one_of(goal, CITIES)}: 9:00"


def tasks(
    split: str, n: int, seed: int, *, requests: tuple[int, int] = (1, 3), offered: int = 4
) -> list[Task]:
    """`n` different tasks, as data_mix.world.house draws them (from other draws than SFT's).

    Every request belongs to the split by the world's own rule, so neither a task nor a single request
    of a held-out split was ever trained on, in SFT or here. Raises: UserError where there are fewer.
    """
    drawn = house_tasks(split, seed, requests=requests, offered=offered)
    return [
        Task(
            id=f"house-{split}-{seed}-{number}",
            environment="house",
            messages=[{"role": "user", "content": task.text}],
            tools=task.tools,
            data={"start": task.start, "calls": task.calls},
            problem=json.dumps(sorted(json.dumps(call, sort_keys=True) for call in task.calls)),
        )
        for number, task in enumerate(islice(drawn, n))
    ]


def _bag(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) else value


def _one_of(given: Any, allowed: Sequence[str]) -> str:
    if given not in allowed:
        raise ValueError(f"{str(given)[:40]!r} is not known here")
    return str(given)


def _whole(given: Any) -> int:
    if isinstance(given, bool) or not isinstance(given, int):
        raise ValueError(f"{str(given)[:40]!r} is not a whole number")
    return given
