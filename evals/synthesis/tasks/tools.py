"""Tool calls: dialogues in three roles over a real environment, and requests that no call can serve.

The user is a model that was told what it wants; the assistant is the writer; what a tool answers comes from
the environment itself, so no call can be verified wrongly. A dialogue is kept where the final state is the
one that the task's own solution leads to [paper 4.1: a rule-based verifier, successful trajectories only].
"""

import json
import re
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from data_mix.gates import repeats
from environments.catalogue import make_environment
from environments.episode import Episode
from environments.protocol import Task
from evals.synthesis.config import ToolDialogueTask, When2CallTask
from evals.synthesis.seeds import Seed, spoken, talk
from evals.synthesis.work import (
    GateRefusal,
    Outcome,
    Piece,
    Replied,
    Wanted,
    Work,
    ask,
    user,
    value_of,
    whole,
)
from reward.verdict import Verdict
from workbench.chat import Reply as ChatReply
from workbench.conversation import Message

END = "<end>"
_OPEN = """You play a person who writes to an assistant that can act by tools.{persona} This is what you want:

{goal}

Write your message to the assistant in your own words. Say everything that it needs: every name, number and text exactly as above. Write the message alone."""
_GO_ON = """You play a person who talks with an assistant that can act by tools.{persona} This is what you want:

{goal}

The talk so far:

{talk}

If the assistant asks you something, answer it from what you want. If it says that it is done, or cannot do it, write {end} alone. Write your next message alone."""
_CALLS, _SAID = "(calls {names})", "{who}: {text}"
_DECLINES = re.compile(
    r"\b(?:can(?:no|')?t|can not|unable|not able|no (?:tool|function|way|access)|don't have|do not have|"
    r"isn't (?:possible|available)|not (?:available|possible|supported)|sorry)\b", re.I
)  # fmt: skip
_WITHOUT = """Here is a request:

{request}

Write it again without saying {value!r}: the reader must not be able to tell what it is. Change nothing else. Write the request alone."""
_PLAIN = "Use the tools where they can do what is asked. Where none of them can, say so; where something that a tool needs is not said, ask for it."


def dialogues(task: ToolDialogueTask, given: Task, models: Sequence[str]) -> list[Piece]:
    """A dialogue on the environment's task by each model."""
    return [
        Piece(f"{given.id}/{model}", 1, model, _dialogue(task, given, f"{given.id}/{model}", model))
        for model in models
    ]


def _dialogue(task: ToolDialogueTask, given: Task, name: str, model: str) -> Work:
    goal = "\n".join(str(m["content"]) for m in given.messages if m["role"] == "user")
    who = Random(f"persona/{given.id}").choice(task.personas) if task.personas else ""
    persona = f" You are {who}." if who else ""
    (opening,) = yield [ask(_OPEN.format(persona=persona, goal=goal), who="user")]
    said = whole(opening[0]).answer.strip()
    world = make_environment(given.environment)
    world.reset(given)
    if missing := _unsaid(
        said, [call for turn in world.gold() if not isinstance(turn, str) for call in turn], goal
    ):
        return [GateRefusal("the user left something out", f"{missing}: {said}"[:300])]
    system = [m for m in given.messages if m["role"] == "system"]
    asked = Task(
        given.id, given.environment, [*system, *user(said)], given.tools, given.data, given.problem
    )
    episode = Episode(world, asked)
    for _ in range(task.max_replies):
        now = episode.ask()
        if now is None:
            break
        (replies,) = yield [Wanted(now.messages, tools=tuple(episode.tools))]
        reply = whole(replies[0])
        if repeats(reply.answer):
            return [GateRefusal("in a circle", reply.answer[:300])]
        if not reply.tool_calls:
            talked = _shown([*episode.messages, {"role": "assistant", "content": reply.answer}])
            wanted = ask(
                _GO_ON.format(persona=persona, goal=goal, talk=talked, end=END), who="user"
            )
            (answers,) = yield [wanted]
            words = whole(answers[0]).answer.strip()
            if END not in words:
                # The environment sees a reply without a call as the end; the user has not finished.
                episode.messages = [*episode.messages, _message(reply), *user(words)]
                continue
        episode.answer(_chat(reply))
    else:
        return [GateRefusal("too many replies")]
    verdict: Verdict = world.verify()
    if value_of(verdict) != 1.0:
        return [
            GateRefusal(
                "the final state is another", json.dumps(verdict.parts, ensure_ascii=False)[:300]
            )
        ]
    row = talk(
        name, f"tools-{given.environment}", episode.messages, tools=episode.tools, seed=given.id,
        writer=model, persona=who, calls=episode.num_calls, problem=given.problem,
    )  # fmt: skip
    return [row]


def _unsaid(said: str, calls: Sequence[dict[str, Any]], goal: str) -> str:
    """A value of the solution's calls that stands in the goal and not in the user's words; "" for none."""
    for call in calls:
        for value in call.get("arguments", {}).values():
            text = str(value)
            if not isinstance(value, bool) and _stands(text, goal) and not _stands(text, said):
                return text
    return ""


def _stands(text: str, where: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(text)}(?!\w)", where, re.I) is not None


def _chat(reply: Replied) -> ChatReply:
    return ChatReply(
        reply.thinking, reply.answer, reply.tool_calls, reply.well_formed, reply.text, reply.opened
    )


def _message(reply: Replied) -> Message:
    return spoken(reply.answer, reply.thinking)


def _shown(messages: Sequence[Message]) -> str:
    names = {"user": "You", "assistant": "Assistant", "tool": "Tool"}
    lines = []
    for message in messages:
        if message["role"] not in names:
            continue
        calls = [str(c.get("function", c).get("name")) for c in message.get("tool_calls") or []]
        text = str(message.get("content") or "") or _CALLS.format(names=", ".join(calls))
        lines.append(_SAID.format(who=names[message["role"]], text=text))
    return "\n".join(lines)


def negatives(task: When2CallTask, seed: Seed, models: Sequence[str]) -> list[Piece]:
    """A request whose tool is gone, and one without an argument, of a seed whose reply calls."""
    make: dict[str, Callable[[Seed, str, str], Work]] = {"tool": _no_tool, "argument": _no_argument}
    return [
        Piece(name := f"{seed.id}/{model}/{what}", 1, model, make[what](seed, name, model))
        for model in models
        for what in task.withhold
    ]


def _gold(seed: Seed) -> list[dict[str, Any]]:
    question = seed.conversation
    reply = question.reply if question is not None else None
    return [dict(c.get("function", c)) for c in (reply or {}).get("tool_calls") or []]


def _no_tool(seed: Seed, name: str, model: str) -> Work:
    gold, question = _gold(seed), seed.conversation
    if not gold or question is None:
        return [GateRefusal("a seed without a call")]
        yield  # a generator, whatever its seed
    needed = {call["name"] for call in gold}
    left = [
        tool for tool in question.tools or [] if tool.get("function", tool)["name"] not in needed
    ]
    if not left:
        return [GateRefusal("no tool is left on offer")]
    reply = yield from _asked(question.prompt, left)
    if reply.tool_calls or "<TOOLCALL>" in reply.text:
        return [GateRefusal("calls a tool all the same", reply.text[:300])]
    if not _DECLINES.search(reply.answer):
        return [GateRefusal("does not decline", reply.answer[:300])]
    return [_negative(seed, question.prompt, left, reply, name, model, "decline")]


def _no_argument(seed: Seed, name: str, model: str) -> Work:
    gold, question = _gold(seed), seed.conversation
    value = _said_value(gold, seed) if len(gold) == 1 else None
    if value is None or question is None:
        return [GateRefusal("no argument to leave out")]
    (written,) = yield [ask(_WITHOUT.format(request=seed.text, value=value), who="user")]
    text = whole(written[0]).answer.strip()
    if not text or _stands(value, text):
        return [GateRefusal("the argument is still said", text[:300])]
    prompt = [*question.prompt[:-1], *user(text)]
    reply = yield from _asked(prompt, question.tools or [])
    if reply.tool_calls or "<TOOLCALL>" in reply.text:
        return [GateRefusal("calls a tool all the same", reply.text[:300])]
    if "?" not in reply.answer and "？" not in reply.answer:
        return [GateRefusal("does not ask", reply.answer[:300])]
    return [_negative(seed, prompt, question.tools or [], reply, name, model, "ask")]


def _asked(prompt: Sequence[Message], tools: Sequence[dict[str, Any]]) -> Any:
    plain = [{"role": "system", "content": _PLAIN}]
    own = [m for m in prompt if m["role"] == "system"]
    (replies,) = yield [Wanted([*([] if own else plain), *prompt], tools=tuple(tools))]
    return whole(replies[0])


def _said_value(gold: Sequence[dict[str, Any]], seed: Seed) -> str | None:
    """A required argument's value that the request says; the first by name."""
    question = seed.conversation
    tools = {
        t["name"]: t
        for t in (
            tool.get("function", tool) for tool in (question.tools if question else None) or []
        )
    }
    for call in gold:
        parameters = tools.get(call["name"], {}).get("parameters") or {}
        for key in sorted(parameters.get("required") or call.get("arguments", {})):
            value = call.get("arguments", {}).get(key)
            if (
                isinstance(value, str | int | float)
                and not isinstance(value, bool)
                and _stands(str(value), seed.text)
            ):
                return str(value)
    return None


def _negative(
    seed: Seed, prompt: Sequence[Message], tools: Sequence[dict[str, Any]], reply: Replied,
    name: str, model: str, gold: str,
) -> Outcome:  # fmt: skip
    said = [*prompt, spoken(reply.answer, reply.thinking)]
    return talk(
        name, "when2call", said, tools=tools, thinking=bool(reply.thinking), seed=seed.id,
        writer=model, gold=gold,
    )  # fmt: skip
