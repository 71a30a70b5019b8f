"""Real user requests with gold tool calls: BFCL v3's live categories, in a split of our own.

The split is by family: items that offer a tool of the same name, or whose request is the same but for
case and punctuation, are linked, and a family of linked items is wholly train or wholly test. So no tool
and no request of a training prompt ever stands in a test prompt. It depends on nothing but the data.
BFCL itself has no train split: numbers on this one are never BFCL scores.
"""

import json
import re
from collections.abc import Collection, Mapping
from functools import lru_cache
from hashlib import blake2b
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from data_mix.bfcl_names import BFCL_CATEGORIES
from workbench.conversation import CheckSpec, Conversation
from workbench.errors import UserError

_VERSION = "BFCL_v3"
_PACKAGE = "bfcl_eval"  # 2025.6.16 has the v3 data
# Share of the small families that is held out. The largest family (62% of all items, linked through
# generic tools such as get_current_weather) is always train.
_TEST_SHARE = 0.75
# BFCL's type names -> JSON schema's. `any` takes every value: no `type`.
_TYPES = {"dict": "object", "float": "number", "tuple": "array", "any": None}
# Answer keys that no output can meet (checked: the built gold call fails BFCL's own checker): a
# mandatory argument that the tool does not have, a required one that the key lacks, or a required
# array for which no value is allowed.
UNSATISFIABLE = frozenset(
    {
        "live_simple_106-63-0",
        "live_simple_112-68-0",
        "live_multiple_862-181-3",
        "live_multiple_964-207-0",
    }
)

Item = dict[str, Any]


def bfcl_conversations(
    split: str, categories: tuple[str, ...] = BFCL_CATEGORIES, max_characters: int | None = None
) -> list[Conversation]:
    """The split's items in a fixed shuffled order, each with its gold reply and its check.

    max_characters: leave out items whose messages and tool documents are longer, which never moves
    an item to the other split. Raises: UserError where the package or its v3 data is missing.
    """
    chosen = [
        item
        for item in _items()
        if item["category"] in categories
        and item["split"] == split
        and item["id"] not in UNSATISFIABLE
        and (max_characters is None or _characters(item) <= max_characters)
    ]
    chosen.sort(key=lambda item: _digest(f"order/{item['id']}"))
    return [_conversation(item) for item in chosen]


def _characters(item: Item) -> int:
    shown = [json.dumps(tool, ensure_ascii=False) for tool in item["function"]]
    return sum(map(len, shown)) + sum(len(m["content"]) for m in item["messages"])


def _conversation(item: Item) -> Conversation:
    return Conversation(
        id=item["id"],
        domain=item["category"],
        messages=[
            *item["messages"],
            {
                "role": "assistant",
                "content": "",
                "tool_calls": gold_calls(item["gold"], item["function"]),
            },
        ],
        tools=[json_schema_tool(document) for document in item["function"]],
        check=CheckSpec(
            "tools",
            item["gold"],
            {
                # BFCL's own documents: its checker knows types that JSON schema has not.
                "tools": item["function"],
                "category": item["category"],
                "answer_format": "possible",
            },
        ),
        thinking=False,
    )


def gold_calls(
    gold: list[Mapping[str, Mapping[str, list[Any]]]], tools: list[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """One right answer from BFCL's lists of allowed values: the first of each.

    An argument that may be left out ("" is allowed) is left out, for the request does not state it;
    one that its tool requires is given all the same.
    """
    required = {tool["name"]: set(tool["parameters"].get("required", ())) for tool in tools}
    return [
        {"name": name, "arguments": _chosen(arguments, required.get(name, set()))}
        for call in gold
        for name, arguments in call.items()
    ]


def _chosen(arguments: Mapping[str, Any], required: Collection[str] = ()) -> dict[str, Any]:
    """A mapping {key: [allowed values]} as {key: value}; two mappings deep, values are plain."""
    out = {}
    for key, allowed in arguments.items():
        if not isinstance(allowed, list):
            out[key] = allowed
        elif allowed and (key in required or "" not in allowed):
            out[key] = _value(next((value for value in allowed if value != ""), ""))
    return out


def _value(value: Any) -> Any:
    if isinstance(value, list):
        return [_value(item) for item in value]
    return _chosen(value) if isinstance(value, Mapping) else value


def json_schema_tool(document: Mapping[str, Any]) -> dict[str, Any]:
    """A BFCL document as a tool in JSON schema, nothing left out."""
    return {
        "type": "function",
        "function": {
            "name": document["name"],
            "description": document["description"],
            "parameters": _schema(document["parameters"]),
        },
    }


def _schema(node: Any) -> Any:
    if isinstance(node, list):
        return [_schema(item) for item in node]
    if not isinstance(node, Mapping):
        return node
    out: dict[str, Any] = {}
    for key, value in node.items():
        if key == "type" and isinstance(value, str):
            name = _TYPES.get(value, value)
            out |= {"type": name} if name is not None else {}
        elif key == "properties":
            out[key] = {name: _schema(inner) for name, inner in value.items()}
        else:
            # Defaults and enums are values, not schemas.
            out[key] = value if key in ("default", "enum") else _schema(value)
    return out


def _data() -> Path:
    spec = find_spec(_PACKAGE)
    folder = Path((spec.submodule_search_locations or [""])[0]) / "data" if spec else None
    if folder is None or not (folder / f"{_VERSION}_live_simple.json").is_file():
        raise UserError(
            "source bfcl: the package bfcl-eval with the v3 data is not installed; "
            "run `make setup` (bfcl-eval==2025.6.16)"
        )
    return folder


@lru_cache(maxsize=1)
def _items() -> list[Item]:
    """Every item of the live categories with gold, with its split."""
    folder, items = _data(), []
    for category in BFCL_CATEGORIES:
        name = f"{_VERSION}_{category}.json"
        gold = {row["id"]: row["ground_truth"] for row in _rows(folder / "possible_answer" / name)}
        for row in _rows(folder / name):
            items.append(
                {
                    "id": row["id"],
                    "category": category,
                    "messages": [message for turn in row["question"] for message in turn],
                    "function": row["function"],
                    "gold": gold[row["id"]],
                }
            )
    families = _families(items)
    largest = max(families.values(), key=len)
    for family in families.values():
        first = min(item["id"] for item in family)
        held_out = family is not largest and _digest(f"split/{first}") < _TEST_SHARE
        for item in family:
            item["split"] = "test" if held_out else "train"
    return items


def _rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line]


def _families(items: list[Item]) -> dict[str, list[Item]]:
    """Items linked, directly or not, by a tool's name or by their request; key: one of the links."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    def links(item: Item) -> list[str]:
        request = re.sub(r"\W+", " ", item["messages"][-1]["content"].lower()).strip()
        return [f"request {request}", *(f"tool {tool['name']}" for tool in item["function"])]

    for item in items:
        first, *others = links(item)
        for name in others:
            parent[root(name)] = root(first)
    families: dict[str, list[Item]] = {}
    for item in items:
        families.setdefault(root(links(item)[0]), []).append(item)
    return families


def family_of(item_id: str) -> str:
    """The name of an item's family: what to cluster errors by."""
    return _family_names()[item_id]


@lru_cache(maxsize=1)
def _family_names() -> dict[str, str]:
    families = _families(_items()).values()
    return {item["id"]: min(i["id"] for i in family) for family in families for item in family}


def _digest(text: str) -> float:
    """A number in [0, 1) from a text, the same everywhere."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
