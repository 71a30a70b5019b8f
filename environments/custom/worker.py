"""What runs inside the processes of a user's own environment. See environments.custom.world."""

import asyncio
import inspect
import json
import math
import random
import sys
from collections.abc import Mapping
from functools import cache
from itertools import islice
from typing import Any

from environments.custom.tools import BadTool, MethodTool, tools_of
from reward.plugin_worker import as_reply, as_verdict, load
from workbench.errors import one_line

_Target = list[str]
_GIVEN = ("split", "n", "seed")


class EnvironmentBroke(Exception):
    """The user's class failed, or gave something of a kind that was not asked for."""


class _Play:
    """One episode: the user's object and its tools. others: names that its `call` carries out."""

    def __init__(
        self, made: Any, tools: dict[str, MethodTool], others: set[str], longest: int
    ) -> None:
        self.made, self.tools, self.others, self.longest = made, tools, others, longest
        self.rewards: list[float] = []


_play: _Play | None = None


def preload(target: _Target, stamp: object = None) -> None:
    """Import the class as it is at `stamp`, before sessions are forked."""
    _tools(_class(target))


def describe(target: _Target) -> dict[str, Any]:
    """What the class has and takes, or {"problem": what is wrong with it}."""
    found = load(*target)
    if not isinstance(found, type):
        return {"problem": f"it is {type(found).__name__}, not a class"}
    try:
        tools = tools_of(found)
    except BadTool as error:
        return {"problem": str(error)}
    if not callable(getattr(found, "reset", None)):
        return {"problem": "it has no method reset(self, task), which begins an episode"}
    has_call = callable(getattr(found, "call", None))
    takes_all = callable(getattr(found, "turn", None))
    if not (tools or has_call or takes_all or callable(getattr(found, "step", None))):
        return {"problem": "it has neither tools (typed methods) nor step(self, reply)"}
    judges = any(callable(getattr(found, name, None)) for name in ("verify", "reward"))
    if not judges and not callable(getattr(found, "step", None)):
        return {
            "problem": "nothing judges an episode; give it verify(self), which returns a number"
        }
    takes = _keywords(found)
    return {
        "tools": [tool.document for tool in tools.values()],
        "options": takes,
        "has_tasks": callable(getattr(found, "tasks", None)),
        "has_call": has_call,
        "has_task_of": callable(getattr(found, "task_of", None)),
    }


def documents(target: _Target, options: dict[str, Any]) -> list[dict[str, Any]]:
    """The tools that `call` carries out, by the class's `documents`; [] where the tasks name them."""
    made = _class(target)(**options)
    if not callable(getattr(made, "documents", None)):
        return []
    found: list[dict[str, Any]] = _json(list(_waited(made.documents())), "documents")
    return found


def tasks_of(
    target: _Target, options: dict[str, Any], rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Rows of a file as tasks, by the class's `task_of`."""
    made = _class(target)(**options)
    found: list[dict[str, Any]] = _json([made.task_of(row) for row in rows], "task_of")
    return found


def tasks(
    target: _Target, options: dict[str, Any], split: str, n: int, seed: int
) -> list[dict[str, Any]]:
    """Up to `n` tasks that the class draws. Raises: what it raises, EnvironmentBroke."""
    made = _class(target)(**options)
    wanted = {"split": split, "n": n, "seed": seed}
    parameters = inspect.signature(made.tasks).parameters.values()
    anything = any(p.kind is p.VAR_KEYWORD for p in parameters)
    names = [p.name for p in parameters]
    drawn = made.tasks(**{k: v for k, v in wanted.items() if anything or k in names})
    found = []
    for number, task in enumerate(islice(drawn, n), 1):
        if not isinstance(task, Mapping):
            raise EnvironmentBroke(
                f"task {number} is {_shown(task)}; tasks are mappings with a prompt"
            )
        found.append(_json(dict(task), f"task {number}"))
    return found


def begin(
    target: _Target, options: dict[str, Any], task: dict[str, Any], offered: list[str], longest: int
) -> None:
    """Start an episode in this process. The same task draws the same numbers."""
    global _play
    cls = _class(target)
    seed = json.dumps(task, sort_keys=True)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(random.Random(seed).randrange(2**32))
    made = cls(**options)
    found = _waited(made.reset(**_columns(made.reset, task)))
    if found is not None:
        raise EnvironmentBroke(
            f"reset returned {_shown(found)}; what is asked belongs into the task's prompt"
        )
    known = _tools(cls)
    own = {name: known[name] for name in offered if name in known}
    _play = _Play(made, own, set(offered) - set(own), longest)


def step(reply: dict[str, Any]) -> dict[str, Any]:
    """Carry out a reply: {"messages", "done", "reward"}."""
    play = _playing()
    calls = reply["tool_calls"] or []
    own_step = getattr(play.made, "step", None)
    if callable(getattr(play.made, "hear", None)):
        _waited(play.made.hear(as_reply(reply)))
    if callable(getattr(play.made, "turn", None)):
        out = _turned(_waited(play.made.turn(as_reply(reply))))
    elif calls and (play.tools or play.others or own_step is None):
        messages = [_called(play, call) for call in calls]
        out = {
            "messages": messages,
            "done": bool(getattr(play.made, "done", False)),
        }
    elif own_step is not None:
        out = _stepped(_waited(own_step(as_reply(reply))))
    else:
        out = {"messages": [], "done": True}
    earned = [out.pop("earned")] if "earned" in out else []
    if callable(getattr(play.made, "reward", None)):
        earned.append(_number(_waited(play.made.reward()), "reward"))
    play.rewards += [sum(earned)] if earned else []
    return out | {"reward": sum(earned) if earned else None}


def verify() -> dict[str, Any]:
    """{"value", "status", "parts"}, or {"error"}: by the class's `verify`, plus what its turns earned."""
    play = _playing()
    turns: dict[str, Any] = {"turn_rewards": list(play.rewards)} if play.rewards else {}
    if not callable(getattr(play.made, "verify", None)):
        if not play.rewards:
            return {"error": "no turn earned anything and there is no verify(self)"}
        return {"value": math.fsum(play.rewards), "status": "ok", "parts": turns}
    try:
        found = as_verdict(_waited(play.made.verify()))
    except Exception as error:  # noqa: BLE001 - the user's code: its failure is a status
        return {"error": f"verify: {one_line(error)}"}
    if "error" in found:
        return {"error": f"verify: {found['error']}"}
    whole = math.fsum([found["value"], *play.rewards])
    status = found["status"] if whole == found["value"] else "ok"
    return {"value": whole, "status": status, "parts": {**found["parts"], **turns}}


def solve() -> list[str | list[dict[str, Any]]]:
    """The task's own solution by the class's `solve`: of each turn the calls, or the reply's text."""
    found = _waited(_playing().made.solve())
    if isinstance(found, str | Mapping):
        raise TypeError(f"solve() gave {found!r:.100}; give a list, one entry for each turn")
    turns: list[str | list[dict[str, Any]]] = _json(list(found), "solve")
    return turns


def refused(call: Mapping[str, Any], known: set[str]) -> dict[str, str] | None:
    """What the model is told of a call that no tool carries out; None where one does. known: their names."""
    name = call.get("name")
    if not isinstance(name, str) or name not in known:
        return {"error": f"there is no tool {str(name)[:60]!r}"}
    if not isinstance(call.get("arguments"), Mapping):
        return {"error": "arguments must be an object"}
    return None


def _called(play: _Play, call: Mapping[str, Any]) -> dict[str, Any]:
    """A tool's answer as a message. What is wrong with the model's call is told to the model."""
    problem = refused(call, {*play.tools, *play.others})
    if problem is not None:
        return _result(play, problem)
    name, arguments = call["name"], call["arguments"]
    tool = play.tools.get(name)
    try:
        given = dict(arguments) if tool is None else tool.read(arguments)
    except ValueError as error:
        return _result(play, {"error": str(error)})
    try:
        found = _waited(
            play.made.call(name, given) if tool is None else getattr(play.made, name)(**given)
        )
    except ValueError as error:
        # Exactly that: its subclasses (what json or a codec raises) are faults of the tool.
        if type(error) is not ValueError:
            raise EnvironmentBroke(f"tool {name}: {one_line(error)}") from None
        return _result(play, {"error": str(error)[:300]})
    except Exception as error:  # noqa: BLE001 - the user's code: its failure is a status
        raise EnvironmentBroke(f"tool {name}: {one_line(error)}") from None
    return _result(play, "ok" if found is None else _json(found, f"tool {name}"))


def _result(play: _Play, content: Any) -> dict[str, Any]:
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    if len(text) > play.longest:
        text = f"{text[: play.longest]} ... ({len(text):,} characters in all)"
    return {"role": "tool", "content": text}


def _turned(found: Any) -> dict[str, Any]:
    """What `turn` returned: {messages, done}, the messages as they are."""
    if not isinstance(found, Mapping) or set(found) != {"messages", "done"}:
        raise EnvironmentBroke(f"turn returned {_shown(found)}; it must return messages and done")
    messages = _json(list(found["messages"]), "turn")
    return {"messages": messages, "done": bool(found["done"])}


def _stepped(found: Any) -> dict[str, Any]:
    """What `step` returned: None, text, a mapping {content, reward, done}, or (content, reward, done)."""
    if found is None:
        return {"messages": [], "done": True}
    if isinstance(found, tuple):
        if len(found) < 3:
            raise EnvironmentBroke(
                f"step returned {len(found)} values; give (content, reward, done)"
            )
        found = dict(zip(("content", "reward", "done"), found[:3], strict=True))
    if isinstance(found, Mapping):
        given = dict(found)
        content, done = given.pop("content", None), bool(given.pop("done", False))
        earned = given.pop("reward", None)
        if given:
            raise EnvironmentBroke(
                f"step returned {', '.join(given)}; it may return content, reward and done"
            )
    else:
        content, done, earned = found, False, None
    if content is not None and not isinstance(content, str):
        raise EnvironmentBroke(
            f"step returned {_shown(content)}; it must return text, or None to end"
        )
    messages = [] if content is None else [{"role": "user", "content": content}]
    out: dict[str, Any] = {"messages": messages, "done": done or content is None}
    return out if earned is None else out | {"earned": _number(earned, "step")}


def _number(value: Any, what: str) -> float:
    found = as_verdict(value)
    if "error" in found:
        raise EnvironmentBroke(f"{what}: {found['error']}")
    return float(found["value"])


def _columns(reset: Any, task: dict[str, Any]) -> dict[str, Any]:
    """What `reset` takes of a task: all of it as `task`, or its columns by name."""
    parameters = inspect.signature(reset).parameters
    if "task" in parameters:
        return {"task": task}
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return task
    missing = [n for n, p in parameters.items() if p.default is p.empty and n not in task]
    if missing:
        raise EnvironmentBroke(
            f"reset asks for {missing[0]!r}, which the task has not; it has {', '.join(task)}"
        )
    return {name: task[name] for name in parameters if name in task}


def _keywords(cls: type) -> list[str] | None:
    """Options of its constructor; None: it takes any."""
    if cls.__init__ is object.__init__:  # type: ignore[misc]
        return []
    parameters = list(inspect.signature(cls).parameters.values())
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return [p.name for p in parameters]


def _class(target: _Target) -> Any:
    return load(*target)


@cache
def _tools(cls: type) -> dict[str, MethodTool]:
    return tools_of(cls)


def _playing() -> _Play:
    if _play is None:
        raise EnvironmentBroke("no episode has begun")
    return _play


def _waited(found: Any) -> Any:
    """What an async method gives in the end; one loop for the whole episode."""
    if not inspect.isawaitable(found):
        return found
    return _loop().run_until_complete(found)


def _loop() -> asyncio.AbstractEventLoop:
    try:
        return asyncio.get_event_loop_policy().get_event_loop()
    except RuntimeError:
        made = asyncio.new_event_loop()
        asyncio.set_event_loop(made)
        return made


def _json(value: Any, what: str) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise EnvironmentBroke(f"{what} returned {_shown(value)}: {one_line(error)}") from None


def _shown(value: Any) -> str:
    return f"{type(value).__name__} {value!r:.60}"
