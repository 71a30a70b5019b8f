"""The miniature's environment: a small house whose lights, heating, timers and messages are checked.

Its tools are those of the world's tool-calling domain; a task strings one to three requests together,
so that a model which learned to make one call must learn to make all of them and then stop.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from random import Random
from typing import Any

from data_mix.world.problem import split_of
from data_mix.world.tooluse import CITIES, PEOPLE, TOOLS, Tool
from reward.verdict import Verdict, decided
from rl.environments.protocol import Step, Task, ToolCall, call_tool, tool_result

ROOMS = ("kitchen", "garden", "hall", "office")
# Tools that are asked for. The others stand among the tools on offer; to call one is harmless, except
# to phone somebody who was not to be phoned.
ACTIONS = ("set_light", "set_heat", "set_timer", "send_message", "book_table")
_TOOL: dict[str, Tool] = {tool.name: tool for tool in TOOLS}
_TRIES = 10_000


class House:
    """The state and its tools; implements rl.environments.protocol.Environment."""

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

    def step(self, calls: Sequence[ToolCall]) -> Step:
        """See protocol. There is one user turn: a reply without a call ends the episode."""
        assert self._task is not None
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
        tools = {name: getattr(self, f"_{name}") for name in _TOOL}
        answer, _ = call_tool(call, tools, allowed=offered)
        return tool_result(answer)

    def _set_light(self, room: str, level: int) -> str:
        self.state["lights"][_one_of(room, ROOMS)] = _whole(level)
        return "ok"

    def _set_heat(self, room: str, degrees: int) -> str:
        self.state["heats"][_one_of(room, ROOMS)] = _whole(degrees)
        return "ok"

    def _set_timer(self, minutes: int) -> str:
        self.state["timers"].append(_whole(minutes))
        return "ok"

    def _send_message(self, to: str, text: str) -> str:
        self.state["messages"].append([_one_of(to, PEOPLE), str(text)])
        return "ok"

    def _call_person(self, name: str) -> str:
        self.state["calls"].append(_one_of(name, PEOPLE))
        return "ok"

    def _book_table(self, city: str, people: int) -> str:
        self.state["tables"].append([_one_of(city, CITIES), _whole(people)])
        return "ok"

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
    """`n` different tasks of `requests` (fewest, most) requests with about `offered` tools on offer.

    Every request belongs to the split by the world's own rule, so neither a task nor a single request
    of a held-out split was ever trained on, in SFT or here.
    """
    return list(_tasks(split, n, seed, requests, offered))


def _tasks(
    split: str, n: int, seed: int, requests: tuple[int, int], offered: int
) -> Iterator[Task]:
    rng, seen = Random(f"house/{split}/{seed}"), set[str]()
    while len(seen) < n:
        count = rng.randint(*requests)
        wanted = rng.sample(ACTIONS, count)
        drawn = [_request(_TOOL[name], rng, split) for name in wanted]
        text = " ".join(words for words, _ in drawn)
        if text in seen:
            continue
        seen.add(text)
        rest = [name for name in _TOOL if name not in wanted]
        names = [*wanted, *rng.sample(rest, max(offered - count, 0))]
        rng.shuffle(names)
        yield Task(
            id=f"house-{split}-{seed}-{len(seen) - 1}",
            environment="house",
            messages=[{"role": "user", "content": text}],
            tools=[_TOOL[name].document for name in names],
            data={"start": _start(rng), "calls": [call for _, call in drawn]},
        )


def _request(tool: Tool, rng: Random, split: str) -> tuple[str, ToolCall]:
    """Wording and call of a request that belongs to the split."""
    for _ in range(_TRIES):
        arguments = {name: draw(rng) for name, draw in tool.parameters.items()}
        if split_of(tool.key(arguments)) == split:
            words = rng.choice(tool.requests).format(**arguments)
            return words, {"name": tool.name, "arguments": arguments}
    raise RuntimeError(f"no request of {tool.name} in split {split!r}")


def _start(rng: Random) -> dict[str, Any]:
    return {
        "lights": {room: rng.randint(0, 60) for room in ROOMS},
        "heats": {room: rng.randint(5, 30) for room in ROOMS},
        "timers": [],
        "messages": [],
        "calls": [],
        "tables": [],
    }


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
