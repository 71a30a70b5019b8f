"""Real user requests with gold tool calls: BFCL v3's live categories, in a split of our own.

The split is by family: items that offer a tool of the same name, or whose request is the same but for
case and punctuation, are linked, and a family of linked items is wholly train or wholly test. So no tool
and no request of a training prompt ever stands in a test prompt. It depends on nothing but the data.
BFCL itself has no train split: numbers on this one are never BFCL scores.
"""

import json
import re
from functools import lru_cache
from hashlib import blake2b
from typing import Any

from data_mix.bfcl_names import BFCL_CATEGORIES
from reward.bfcl import UNSATISFIABLE, entries, gold_calls, json_schema, opening
from workbench.conversation import CheckSpec, Conversation

# Share of the small families that is held out. The largest family (62% of all items, linked through
# generic tools such as get_current_weather) is always train.
_TEST_SHARE = 0.75
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
        tools=[{"type": "function", "function": json_schema(tool)} for tool in item["function"]],
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


@lru_cache(maxsize=1)
def _items() -> list[Item]:
    """Every item of the live categories with gold, with its split."""
    items = [
        {
            "id": row["id"],
            "category": category,
            "messages": opening(row),
            "function": row["function"],
            "gold": row["ground_truth"],
        }
        for category in BFCL_CATEGORIES
        for row in entries(category)
    ]
    families = _families(items)
    largest = max(families.values(), key=len)
    for family in families.values():
        first = min(item["id"] for item in family)
        held_out = family is not largest and _digest(f"split/{first}") < _TEST_SHARE
        for item in family:
            item["split"] = "test" if held_out else "train"
    return items


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
