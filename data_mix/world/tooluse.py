"""Tool calling: one to three tools on offer, a request, one call with copied arguments, or none."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

from data_mix.world.problem import Problem
from workbench.conversation import CheckSpec

NO_TOOL = "No tool fits."

CITIES = (
    "Paris", "Berlin", "Rome", "Madrid", "Tokyo", "Cairo", "Oslo", "Lima",
    "Vienna", "Athens", "Havana", "Lisbon", "Moscow", "Warsaw", "Beijing", "Stockholm",
)  # fmt: skip
PEOPLE = ("Ana", "Ben", "Eva", "Leo", "Mia", "Tom", "Ida", "Max", "Zoe", "Kim")
WORDS = (
    "hello", "water", "cat", "house", "sun", "bread", "tree", "book",
    "fish", "rain", "moon", "gold", "stone", "wind", "lamp", "road",
)  # fmt: skip
_LANGUAGES = ("French", "German", "Italian", "Spanish")
ROOMS = ("kitchen", "garden", "hall", "office")


def _city(rng: Random) -> str:
    return rng.choice(CITIES)


def _person(rng: Random) -> str:
    return rng.choice(PEOPLE)


def _word(rng: Random) -> str:
    return rng.choice(WORDS)


def _language(rng: Random) -> str:
    return rng.choice(_LANGUAGES)


def _room(rng: Random) -> str:
    return rng.choice(ROOMS)


def _number(rng: Random) -> int:
    return rng.randint(2, 60)


@dataclass(frozen=True)
class WorldTool:
    """A tool: `topic` is its name in traces, `requests` are wordings with {parameter} slots."""

    name: str
    topic: str
    parameters: dict[str, Callable[[Random], Any]]
    requests: tuple[str, ...]

    def key(self, arguments: dict[str, Any]) -> str:
        """The name of a request, whatever its wording: it decides the split."""
        return f"tools:{self.name}:{json.dumps(arguments, sort_keys=True)}"

    @property
    def document(self) -> dict[str, Any]:
        """The JSON-schema document shown to the model, kept short."""
        types = {
            name: {"type": "integer" if draw is _number else "string"}
            for name, draw in self.parameters.items()
        }
        return {
            "name": self.name,
            "description": self.topic,
            "parameters": {"type": "object", "properties": types},
        }


TOOLS: tuple[WorldTool, ...] = (
    WorldTool("get_weather", "weather", {"city": _city},
         ("What is the weather in {city}?", "Will it rain in {city}?")),
    WorldTool("get_time", "time", {"city": _city},
         ("What time is it in {city}?", "Tell me the time in {city}.")),
    WorldTool("set_timer", "timer", {"minutes": _number},
         ("Set a timer of {minutes} minutes.", "Wake me in {minutes} minutes.")),
    WorldTool("send_message", "message", {"to": _person, "text": _word},
         ("Send {to} the message {text}.", "Write {text} to {to}.")),
    WorldTool("call_person", "phone", {"name": _person},
         ("Call {name}.", "Phone {name} now.")),
    WorldTool("translate", "translation", {"text": _word, "language": _language},
         ("Translate {text} to {language}.", "Say {text} in {language}.")),
    WorldTool("set_light", "light", {"room": _room, "level": _number},
         ("Set the {room} light to {level}.", "Dim the {room} light to {level}.")),
    WorldTool("set_heat", "heating", {"room": _room, "degrees": _number},
         ("Heat the {room} to {degrees} degrees.", "Make it {degrees} degrees in the {room}.")),
    WorldTool("book_table", "restaurant", {"city": _city, "people": _number},
         ("Book a table for {people} in {city}.", "Dinner for {people} in {city} please.")),
    WorldTool("find_train", "train", {"start": _city, "goal": _city},
         ("Find a train from {start} to {goal}.", "How do I get by rail from {start} to {goal}?")),
)  # fmt: skip


def propose(rng: Random, split: str) -> Problem:
    """A request; in 1 of 6 none of the tools on offer fits it, and the reply says so.

    The key is the request without the offer: no request of a held-out split is ever trained on.
    """
    wanted = rng.choice(TOOLS)
    num_offered = rng.choices((1, 2, 3), weights=(3, 4, 3))[0]
    others = rng.sample([tool for tool in TOOLS if tool is not wanted], num_offered)
    relevant = rng.random() >= 1 / 6
    offered = [wanted, *others[:-1]] if relevant else others
    rng.shuffle(offered)
    arguments = {name: draw(rng) for name, draw in wanted.parameters.items()}
    request = rng.choice(wanted.requests).format(**arguments)
    calls = [{"name": wanted.name, "arguments": arguments}] if relevant else []
    documents = [tool.document for tool in offered]
    verdict = f"{wanted.name} fits." if relevant else "no tool fits."
    return Problem(
        key=wanted.key(arguments),
        prompt=request,
        trace=f"This is about {wanted.topic}: {verdict}",
        answer="" if relevant else NO_TOOL,
        check=CheckSpec("tools", calls, {"tools": documents}),
        tools=documents,
        tool_calls=calls or None,
    )
