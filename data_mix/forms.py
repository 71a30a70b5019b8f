"""A row of each form as a document: one reader a form, over the fields that its columns hold."""

import json
from collections.abc import Callable, Mapping, Sequence
from math import isfinite
from typing import Any

from data_mix.columns import ColumnsConfig
from data_mix.messages import normal_message
from data_mix.preferences import Labelled, Preference
from workbench.conversation import Conversation, Message
from workbench.errors import UserError

Fields = Mapping[str, Any]
Read = Conversation | Preference | Labelled
# Kinds of checks whose references are mappings or lists, which flat files hold as JSON text.
_STRUCTURED = (
    "tools",
    "instructions",
    "code",
    "contest",
    "composite",
    "judged-match",
    "judged-better",
)
_TRUE, _FALSE = (True, 1, 1.0, "true", "True"), (False, 0, 0.0, -1, "false", "False")


def read_dialogue(given: Fields, columns: ColumnsConfig, where: str) -> Conversation:
    """messages, openai and sharegpt: a list of messages, or its JSON."""
    messages = from_json(given["messages"])
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        name = columns.column_of()["messages"][0]
        raise UserError(
            f"{where}: column {name!r} is not a list of {{role, content}}; set form: text for plain text"
        )
    return _made(given, columns, where, normal_messages(messages, where))


def read_question(given: Fields, columns: ColumnsConfig, where: str) -> Conversation:
    """A prompt, with a reply to learn where there is one, and a check where there is an answer."""
    messages = _prompt(given["prompt"], where)
    if given.get("reply") is not None:
        messages.append(_reply(given["reply"], "reply", where))
    check = None
    if given.get("answer") is not None:
        check = {
            "kind": columns.check,
            "reference": _reference(given, columns, where),
            "options": dict(columns.check_options),
        }
    return _made(given, columns, where, messages, check=check)


def read_alpaca(given: Fields, columns: ColumnsConfig, where: str) -> Conversation:
    """Instruction and input as one user message, after the turns of `history`; output as the reply."""
    asked = _text(given["prompt"], "prompt", where)
    more = _text(given.get("input") or "", "input", where)
    messages: list[Message] = []
    for turn in from_json(given.get("history")) or []:
        if not isinstance(turn, list | tuple) or len(turn) != 2:
            raise UserError(f"{where}: history holds {turn!r:.60}; allowed: [asked, answered]")
        messages += [
            {"role": "user", "content": turn[0]},
            {"role": "assistant", "content": turn[1]},
        ]
    messages.append({"role": "user", "content": f"{asked}\n\n{more}" if more.strip() else asked})
    messages.append(_reply(given["reply"], "reply", where))
    return _made(given, columns, where, normal_messages(messages, where))


def read_labelled(given: Fields, columns: ColumnsConfig, where: str) -> Labelled:
    """A prompt, a reply and true or false."""
    label = given["label"]
    if not isinstance(label, bool | int | float | str) or label not in (*_TRUE, *_FALSE):
        raise UserError(f"{where}: label is {label!r:.40}; allowed: true and false (or 1 and 0)")
    messages = [*_prompt(given["prompt"], where), _reply(given["reply"], "reply", where)]
    return Labelled(_made(given, columns, where, messages), label in _TRUE)


def read_pair(given: Fields, columns: ColumnsConfig, where: str) -> Preference:
    """Two replies to one prompt. Each is text, one message, or the dialogue that ends with it.

    preference: a number, above 0 where the second of the two (`rejected`) is the better one, as in
    HelpSteer2 and 3; its size is the margin.
    """
    sides = [_side(given[name], name, where) for name in ("chosen", "rejected")]
    preferred = _number(given.get("preference"), "preference", where)
    margin = _number(given.get("margin"), "margin", where)
    if preferred is not None:
        if margin is None:
            margin = abs(preferred)
        if preferred > 0:
            sides.reverse()
    (before, better), (other, worse) = sides
    if before != other:
        raise UserError(f"{where}: chosen and rejected answer different prompts")
    if not before:
        if given.get("prompt") is None:
            raise UserError(
                f"{where}: there is no prompt; name its column, or give chosen and rejected as whole "
                "dialogues"
            )
        before = _prompt(given["prompt"], where)
    if margin is not None and margin < 0:
        raise UserError(f"{where}: margin is {margin:g}; allowed: 0 and more")
    return Preference(_made(given, columns, where, [*before, better]), worse, margin)


READERS: dict[str, Callable[[Fields, ColumnsConfig, str], Read]] = {
    "messages": read_dialogue,
    "openai": read_dialogue,
    "sharegpt": read_dialogue,
    "question": read_question,
    "alpaca": read_alpaca,
    "labelled": read_labelled,
    "pairs": read_pair,
}


def _made(
    given: Fields,
    columns: ColumnsConfig,
    where: str,
    messages: list[Message],
    *,
    check: dict[str, Any] | None = None,
) -> Conversation:
    """The conversation; a system message from its field, or from the recipe, where it has none."""
    system = given.get("system") or columns.system
    if system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": _text(system, "system", where)}, *messages]
    row = {
        "id": str(given.get("id") or where),
        "domain": given.get("domain", columns.domain),
        "messages": messages,
        "tools": from_json(given.get("tools")),
        "check": check,
        "thinking": given.get("thinking"),
        "problem": given.get("problem"),
    }
    return Conversation.from_row(row, where=where)


def _prompt(value: Any, where: str) -> list[Message]:
    """Text as a user message, or messages as they are."""
    messages = from_json(value) if isinstance(value, str) and value.lstrip()[:1] == "[" else value
    if isinstance(messages, list) and messages and all(map(_is_message, messages)):
        return normal_messages(messages, where)
    return [{"role": "user", "content": _text(value, "prompt", where)}]


def _side(value: Any, name: str, where: str) -> tuple[list[Message], Message]:
    """What stands before a reply, and the reply."""
    messages = from_json(value) if isinstance(value, str) and value.lstrip()[:1] == "[" else value
    if isinstance(messages, list) and messages and all(map(_is_message, messages)):
        *before, last = normal_messages(messages, where)
        if last["role"] != "assistant":
            raise UserError(f"{where}: {name} ends with {last['role']!r}; it must end with a reply")
        return before, last
    return [], _reply(value, name, where)


def _reply(value: Any, name: str, where: str) -> Message:
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if isinstance(value, dict) and _is_message(value):
        (message,) = normal_messages([value], where)
        if message["role"] != "assistant":
            raise UserError(f"{where}: {name} is a message of {message['role']!r}")
        return message
    text = _text(value, name, where)
    return normal_messages([{"role": "assistant", "content": text}], where)[0]


def _reference(given: Fields, columns: ColumnsConfig, where: str) -> Any:
    """What the check compares with: the answer, or what follows the last `answer_after` in it.

    Instructions may stand in IFEval's two columns: their ids as the answer, and the arguments of each.
    """
    answer = given["answer"]
    if columns.check == "instructions" and given.get("kwargs") is not None:
        # Most recipes ask no such check, and the checkers are another package.
        from reward.instructions import instructions_of  # noqa: PLC0415

        try:
            return instructions_of(from_json(answer), from_json(given["kwargs"]))
        except ValueError as error:
            raise UserError(f"{where}: {error}") from None
    if columns.answer_after is not None:
        _, found, answer = _text(answer, "answer", where).rpartition(columns.answer_after)
        if not found:
            raise UserError(f"{where}: its answer has no {columns.answer_after!r} (answer_after)")
        answer = answer.strip()
    if columns.check in _STRUCTURED:
        return from_json(answer)
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    number = isinstance(answer, int | float) and not isinstance(answer, bool)
    return str(answer) if number else answer


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        shown = "null" if value is None else f"{value!r:.60}"
        raise UserError(f"{where}: {name} is {shown}; it must be text")
    return value


def _number(value: Any, name: str, where: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not isfinite(value):
        raise UserError(f"{where}: {name} is {value!r:.40}; it must be a number")
    return float(value)


def normal_messages(messages: Sequence[Any], where: str) -> list[Message]:
    """Each as training reads it. Raises: UserError naming the message that cannot be read."""
    out = []
    for number, message in enumerate(messages, start=1):
        try:
            out.append(normal_message(message))
        except UserError as error:
            raise UserError(f"{where}, message {number}: {error}") from None
    return out


def from_json(value: Any) -> Any:
    """The value of a JSON text; anything else, and text that is not JSON, as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _is_message(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    said = {"content", "tool_calls", "function_call"} & set(value)
    return ("role" in value and bool(said)) or ("from" in value and "value" in value)
