"""The house: requests of the tool-calling domain strung together, and how each is solved, turn by turn.

The tool environment of the same name (environments.house) plays these tasks; SFT reads their
solutions, so that a model has seen a result come back before it is asked to act on one.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from data_mix.world.problem import split_of
from data_mix.world.tooluse import ROOMS, TOOLS, WorldTool
from workbench.conversation import Conversation, Message
from workbench.errors import UserError

# Tools that are asked for. The others stand among the tools on offer; to call one is harmless, except
# to phone somebody who was not to be phoned.
ACTIONS = ("set_light", "set_heat", "set_timer", "send_message", "book_table")
# What each of them answers when it has worked.
DONE = "ok"
_TOOL: dict[str, WorldTool] = {tool.name: tool for tool in TOOLS}
_TRIES = 10_000
# So many known texts in a row mean that a split is used up.
_MAX_REPEATS = 500


@dataclass(frozen=True)
class HouseTask:
    """A user's words, the tools on offer, the calls that satisfy them and the house as it starts.

    Example: HouseTask("Heat the hall to 20 degrees.", [...],
    [{"name": "set_heat", "arguments": {"room": "hall", "degrees": 20}}], {"heats": {...}, ...})
    """

    text: str
    tools: list[dict[str, Any]]
    calls: list[dict[str, Any]]
    start: dict[str, Any]


def house_tasks(
    split: str, seed: int, *, requests: tuple[int, int], offered: int
) -> Iterator[HouseTask]:
    """Different tasks of `requests` (fewest, most) requests with about `offered` tools on offer.

    Every request belongs to the split by the world's own rule, so neither a task nor a single request
    of a held-out split was ever trained on. Raises: UserError where the split is used up.
    """
    rng, seen, repeats = Random(f"house/{split}/{seed}"), set[str](), 0
    while True:
        count = rng.randint(*requests)
        wanted = rng.sample(ACTIONS, count)
        drawn = [_request(_TOOL[name], rng, split) for name in wanted]
        text = " ".join(words for words, _ in drawn)
        if text in seen:
            repeats += 1
            if repeats > _MAX_REPEATS:
                raise UserError(
                    f"the house has {len(seen)} different tasks of {requests[0]} to {requests[1]} "
                    f"requests in split {split!r}; ask for fewer, or for more requests a task"
                )
            continue
        seen.add(text)
        repeats = 0
        rest = [name for name in _TOOL if name not in wanted]
        names = [*wanted, *rng.sample(rest, max(offered - count, 0))]
        rng.shuffle(names)
        documents = [_TOOL[name].document for name in names]
        calls = [call for _, call in drawn]
        yield HouseTask(text, documents, calls, _unsolved(_start(rng), calls))


def solved(task: HouseTask) -> list[Message]:
    """The task's messages with its solution: a call a turn, its result, and an end without a call."""
    messages: list[Message] = [{"role": "user", "content": task.text}]
    for call in task.calls:
        messages += [
            {
                "role": "assistant",
                "reasoning_content": f"This is about {_TOOL[call['name']].topic}: {call['name']} fits.",
                "content": "",
                "tool_calls": [{"type": "function", "function": call}],
            },
            {"role": "tool", "content": DONE},
        ]
    end = {"role": "assistant", "reasoning_content": "All is done.", "content": "Done."}
    return [*messages, end]


def house_conversations(
    split: str, seed: int, *, requests: tuple[int, int], offered: int
) -> Iterator[Conversation]:
    """The solutions as training samples: each reply behind what stands before it."""
    tasks = house_tasks(split, seed, requests=requests, offered=offered)
    for number, task in enumerate(tasks):
        messages = solved(task)
        for place, message in enumerate(messages):
            if message["role"] == "assistant":
                yield Conversation(
                    id=f"house-{split}-{seed}-{number}-{place}",
                    domain="house",
                    messages=messages[: place + 1],
                    tools=task.tools,
                )


def _request(tool: WorldTool, rng: Random, split: str) -> tuple[str, dict[str, Any]]:
    """Wording and call of a request that belongs to the split."""
    for _ in range(_TRIES):
        arguments = {name: draw(rng) for name, draw in tool.parameters.items()}
        if split_of(tool.key(arguments)) == split:
            words = rng.choice(tool.requests).format(**arguments)
            return words, {"name": tool.name, "arguments": arguments}
    raise RuntimeError(f"no request of {tool.name} in split {split!r}")


def _unsolved(start: dict[str, Any], calls: list[dict[str, Any]]) -> dict[str, Any]:
    """The start, but nothing that is asked for is so already: that would pay for doing nothing."""
    for call in calls:
        rooms = {"set_light": start["lights"], "set_heat": start["heats"]}.get(call["name"])
        if rooms is not None:
            room, wanted = call["arguments"].values()
            if rooms[room] == wanted:
                rooms[room] += 1
    return start


def _start(rng: Random) -> dict[str, Any]:
    return {
        "lights": {room: rng.randint(0, 60) for room in ROOMS},
        "heats": {room: rng.randint(5, 30) for room in ROOMS},
        "timers": [],
        "messages": [],
        "calls": [],
        "tables": [],
    }
