"""The official package bfcl-eval 2025.6.16 (BFCL v3): entries, documents, types, gold calls, checkers.

It stands on this floor because its lowest reader does: the check `tools` asks its checker. The data source
(data_mix.bfcl), the environment (environments.bfcl) and the benchmarks (evals.tasks.bfcl) read it from
above. Nothing of the package is imported before it is asked for.
"""

import ast
import importlib
import json
import os
import sys
import tempfile
import types
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from workbench.errors import UserError

_PACKAGE, _VERSION = "bfcl_eval", "BFCL_v3"
# Class of a simulated API -> its module, and its file of documents.
APIS = {
    "GorillaFileSystem": "gorilla_file_system", "MathAPI": "math_api", "MessageAPI": "message_api",
    "TwitterAPI": "posting_api", "TicketAPI": "ticket_api", "TradingBot": "trading_bot",
    "TravelAPI": "travel_booking", "VehicleControlAPI": "vehicle_control",
}  # fmt: skip
# Entries that no reply satisfies by the package's own rules. They count as wrong in a benchmark, and are
# not trained on as they are.
UNSATISFIABLE = {
    "live_simple_106-63-0": "a required array whose list of allowed values is empty",
    "live_simple_112-68-0": "a required array whose list of allowed values is empty",
    "live_multiple_862-181-3": "a gold argument that the tool's document does not have",
    "live_multiple_964-207-0": "a required argument that the gold does not have",
    "multi_turn_base_154": "five user turns and gold for six, which the runner calls cut short",
}
Entry = dict[str, Any]


def entries(category: str) -> list[Entry]:
    """A category's entries in file order, with their gold (`ground_truth`, absent for relevance).

    Entries of several turns have no tool documents of their own: `documents` has those of an API.
    They are shared: copy before a change. Raises: UserError where the package is not installed.
    """
    name = f"{_VERSION}_{category}.json"
    rows, gold = _rows(_data() / name), _data() / "possible_answer" / name
    if not gold.is_file():
        return list(rows)
    answers = {row["id"]: row["ground_truth"] for row in _rows(gold)}
    return [{**row, "ground_truth": answers[row["id"]]} for row in rows]


def documents(api: str) -> tuple[dict[str, Any], ...]:
    """The documents of a simulated API's tools, which are all its public methods."""
    return _rows(_data() / "multi_turn_func_doc" / f"{APIS[api]}.json")


def opening(entry: Entry) -> list[dict[str, Any]]:
    """The messages of an entry's first turn. Live entries may hold several system messages, or a late
    one; templates take one, in front."""
    messages = entry["question"][0]
    system = [str(m["content"]) for m in messages if m["role"] == "system"]
    rest = [{k: m[k] for k in ("role", "content")} for m in messages if m["role"] != "system"]
    return [{"role": "system", "content": "\n\n".join(system)}, *rest] if system else rest


@cache
def _rows(path: Path) -> tuple[dict[str, Any], ...]:
    if not path.is_file():
        raise UserError(f"{path} is missing; run `make setup` again")
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line) for line in lines if line)


@cache
def _data() -> Path:
    spec = find_spec(_PACKAGE)
    folder = Path((spec.submodule_search_locations or [""])[0]) / "data" if spec else None
    if folder is None or not (folder / f"{_VERSION}_simple.json").is_file():
        raise UserError(
            "BFCL is read from the package bfcl-eval with the v3 data, which is not installed; run "
            "`make setup` (bfcl-eval==2025.6.16)"
        )
    return folder


def json_schema(document: Mapping[str, Any]) -> dict[str, Any]:
    """A document as a JSON-schema tool, as the package shows it to models that call natively."""
    shown = {key: value for key, value in document.items() if key != "response"}
    return {**shown, "parameters": _schema(document["parameters"])}


def _schema(node: Any) -> Any:
    if not isinstance(node, Mapping):
        return node
    out: dict[str, Any] = {}
    for key, value in node.items():
        if key == "type" and isinstance(value, str):
            out[key] = json_type(value)
        elif key == "properties" and isinstance(value, Mapping):
            out[key] = {name: _schema(inner) for name, inner in value.items()}
        else:
            # Defaults and enums are values, not schemas.
            out[key] = _schema(value) if key == "items" else value
    return out


def json_type(name: str) -> str:
    """JSON schema's name of one of BFCL's types; "string" for `any`, as in the package."""
    known: Mapping[str, str] = official("constants.type_mappings").GORILLA_TO_OPENAPI
    return known.get(name, "string")


# JSON schema's names that BFCL has others for.
_BFCL_TYPES = {"number": "float", "object": "dict"}


def bfcl_type(name: str) -> str:
    """BFCL's name of a type of JSON schema; its own names stay."""
    return _BFCL_TYPES.get(name, name)


def gold_calls(
    gold: Sequence[Mapping[str, Mapping[str, list[Any]]]], tools: Sequence[Mapping[str, Any]]
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


def read_call(text: str, parameters: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """A solution's call, `name(literal, key=literal)`, without running it, all arguments by name.

    parameters: tool -> the names of its parameters in order. Raises: ValueError where the text is
    anything else.
    """
    node = ast.parse(text.strip(), mode="eval").body
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        raise ValueError(f"not a plain call: {text[:80]!r}")
    name = node.func.id
    values = [ast.literal_eval(value) for value in node.args]
    arguments = dict(zip(parameters.get(name, ()), values, strict=False))
    if len(arguments) < len(values):
        raise ValueError(f"more values than {name!r} has parameters: {text[:80]!r}")
    arguments |= {str(k.arg): ast.literal_eval(k.value) for k in node.keywords}
    return {"name": name, "arguments": arguments}


def ast_checker() -> Callable[..., dict[str, Any]]:
    """The package's checker of calls of one turn."""
    checker: Callable[..., dict[str, Any]] = official(
        "eval_checker.ast_eval.ast_checker"
    ).ast_checker
    return checker


@cache
def official(module: str) -> Any:
    """A module of the package, without the vendors' SDKs that its table of models would import."""
    name = f"{_PACKAGE}.constants.model_config"
    if name not in sys.modules:
        stub = types.ModuleType(name)
        stub.MODEL_CONFIG_MAPPING = _NoModelMapping()  # type: ignore[attr-defined]
        sys.modules[name] = stub
    if "BFCL_PROJECT_ROOT" not in os.environ:
        # Importing its configuration makes folders for results; keep them out of site-packages.
        os.environ["BFCL_PROJECT_ROOT"] = tempfile.mkdtemp(prefix="bfcl-")
    return importlib.import_module(f"{_PACKAGE}.{module}")


class _NoModelMapping(dict[str, Any]):
    """BFCL asks per model whether '.' in tool names became '_'; here names stay as they are."""

    def __missing__(self, key: str) -> Any:
        return types.SimpleNamespace(underscore_to_dot=False)
