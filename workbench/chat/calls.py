"""One tool call, however a reply writes it."""

from typing import Any

from workbench.chat import template as t


def read_call(
    item: Any, *, keys: tuple[str, ...] = ("arguments",), as_text: bool = False
) -> dict[str, Any] | None:
    """{name, arguments} of one JSON value; None where it is not a call.

    keys: names that its arguments may have, of which the first that is there counts; a call without them
    has none. as_text: they may be JSON text, as in the OpenAI API.
    """
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        return None
    arguments: Any = next((item[key] for key in keys if key in item), {})
    if as_text and isinstance(arguments, str):
        arguments = t.read_json(arguments)
    if not isinstance(arguments, dict):
        return None
    return {"name": item["name"], "arguments": arguments}
