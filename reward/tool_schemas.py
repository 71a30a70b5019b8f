"""Tool documents as BFCL's checker wants them."""

from collections.abc import Mapping, Sequence
from typing import Any

from reward.bfcl import bfcl_type
from workbench.errors import UserError


def bfcl_documents(
    tools: Sequence[Mapping[str, Any]], gold: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """JSON schemas (OpenAI style or bare), or BFCL documents, as BFCL documents.

    A parameter without one simple type (anyOf, enum only) takes the type of its gold value.
    Raises UserError where a gold call names a tool that is not among several.
    """
    documents = [_document(tool, gold) for tool in tools]
    if len(documents) == 1:  # BFCL then takes the document's name (once its gold's differs)
        return documents
    names = {document["name"] for document in documents}
    for call in gold:
        missing = [name for name in call if name not in names]
        if missing:
            raise UserError(
                f"gold call {missing[0]!r} is not among the tools: {', '.join(sorted(names))}"
            )
    return documents


def documents_from_gold(gold: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Documents whose parameters are the gold calls' own arguments."""
    merged: dict[str, dict[str, list[Any]]] = {}
    for call in gold:
        for name, arguments in call.items():
            for key, allowed in arguments.items():
                merged.setdefault(name, {}).setdefault(key, []).extend(allowed)
            merged.setdefault(name, {})
    return [
        {
            "name": name,
            "parameters": {
                "type": "dict",
                "properties": {key: _inferred(values) for key, values in arguments.items()},
                "required": [key for key, values in arguments.items() if "" not in values],
            },
        }
        for name, arguments in merged.items()
    ]


def _document(tool: Mapping[str, Any], gold: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    function = tool.get("function", tool)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise UserError(f"a tool needs a name, got {tool!r}"[:300])
    parameters = function.get("parameters") or {}
    properties = parameters.get("properties") or {}
    allowed = [call[function["name"]] for call in gold if function["name"] in call]
    return {
        "name": function["name"],
        "parameters": {
            "type": "dict",
            "properties": {
                key: _property(schema, [v for a in allowed for v in a.get(key, [])])
                for key, schema in properties.items()
            },
            "required": list(parameters.get("required") or []),
        },
    }


def _property(schema: Any, values: list[Any]) -> dict[str, Any]:
    schema = schema if isinstance(schema, Mapping) else {}
    given = schema.get("type")
    if isinstance(given, list):  # ["string", "null"]: a nullable string
        given = next((t for t in given if t != "null"), None)
    if not isinstance(given, str):
        return _inferred(values)
    result: dict[str, Any] = {"type": bfcl_type(given)}
    items = schema.get("items")
    if isinstance(items, Mapping) and isinstance(items.get("type"), str):
        result["items"] = {"type": bfcl_type(items["type"])}
    elif result["type"] in ("array", "tuple"):
        result["items"] = _inferred(values).get("items", {"type": "string"})
    return result


def _inferred(values: list[Any]) -> dict[str, Any]:
    value = next((v for v in values if v != ""), "")
    name = _type_name(value)
    if name != "array":
        return {"type": name}
    inner = [item for v in values if isinstance(v, list) for item in v]
    names = {_type_name(item) for item in inner}
    if names == {"integer", "float"}:
        names = {"float"}
    return {"type": "array", "items": {"type": names.pop() if len(names) == 1 else "string"}}


def _type_name(value: Any) -> str:
    for kind, name in ((bool, "boolean"), (int, "integer"), (float, "float"), (dict, "dict")):
        if isinstance(value, kind):
            return name
    return "array" if isinstance(value, list) else "string"
