"""The workplace of nemo-gym: 27 tools over five tables, checked by the state that the tables end in.

The tools, their documents and the tables are the installed package's (the paper's WorkBench is their
forebear); its modules are loaded file by file. Dispatch is ours: a name from the list, JSON arguments.
"""

import importlib.util
import re
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from environments.protocol import Step, Task, ToolCall, call_tool, tool_result
from reward.verdict import Verdict, decided
from workbench.chat import Reply
from workbench.errors import UserError
from workbench.separate import INSTALL, separate_folder

# Kit (its module, and the prefix of its tools' names) -> its class and its tables that count.
_KITS: dict[str, tuple[str, tuple[str, ...]]] = {
    "company_directory": ("CompanyDirectoryTool", ()),
    "email": ("EmailTool", ("_emails",)),
    "calendar": ("CalendarTool", ("_calendar_events",)),
    "analytics": ("AnalyticsTool", ("_plots_data",)),
    "project_management": ("ProjectManagementTool", ("_project_tasks",)),
    "customer_relationship_manager": ("CustomerRelationshipManagerTool", ("_crm_data",)),
}
KITS = tuple(_KITS)
# Columns whose case counts; all others are compared without it, as in the package.
_CASED = ("status", "list_name", "board")
# Searches whose words the package hands to `re`: a repetition there can run for hours.
_SEARCHES = (
    "calendar_search_events",
    "project_management_search_tasks",
    "customer_relationship_manager_search_customers",
)
_REPEATS = re.compile(r"[*+{?]")
TODAY = "2023-11-30"


class Workplace:
    """One episode; implements environments.protocol.Environment."""

    def __init__(self) -> None:
        self._mine: dict[str, Any] = {}
        self._goal: dict[str, Any] = {}
        self._task: Task | None = None

    def reset(self, task: Task) -> None:
        """See protocol."""
        self._task = task
        self._mine, goal = fresh(), fresh()
        for call in task.data["calls"]:
            carry_out(goal, call, set(tool_names()))
        self._goal = tables(goal)

    def step(self, reply: Reply) -> Step:
        """See protocol. There is one user turn: a reply without a call ends the episode."""
        assert self._task is not None
        calls = reply.tool_calls or []
        offered = {tool["name"] for tool in self._task.tools}
        answers = [tool_result(carry_out(self._mine, call, offered)) for call in calls]
        return Step(answers, done=not calls)

    def verify(self) -> Verdict:
        """See protocol: all five tables equal, but for the case of most text."""
        mine = tables(self._mine)
        wrong = [name for name, table in self._goal.items() if not mine[name].equals(table)]
        return decided(not wrong, differs=wrong)

    def gold(self) -> list[list[ToolCall]]:
        """See protocol. Only the calls that change something: how to find their ids is left out."""
        assert self._task is not None
        return [list(self._task.data["calls"])]


def fresh() -> dict[str, Any]:
    """Kit -> its object with its tables as they start."""
    return deepcopy(_pristine())


def carry_out(kits: dict[str, Any], call: ToolCall, offered: set[str]) -> Any:
    """What the tool answers; a wrong call is an answer too."""
    functions = {}
    name = call.get("name")
    if isinstance(name, str) and name in tool_names():
        kit = next(k for k in KITS if name.startswith(f"{k}_"))
        functions[name] = getattr(kits[kit], name.removeprefix(f"{kit}_"))
        words = call["arguments"].values() if isinstance(call.get("arguments"), dict) else ()
        if name in _SEARCHES and any(isinstance(w, str) and _REPEATS.search(w) for w in words):
            return {"error": "a search takes plain words, without * + ? {"}
    answer, _ = call_tool(call, functions, allowed=offered)
    return _plain(answer)


def _plain(value: Any) -> Any:
    """As JSON has it: an empty cell is null and not NaN, a number is not a numpy scalar."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if value != value else value


def tables(kits: dict[str, Any]) -> dict[str, Any]:
    """The five tables that count, lower-cased where case does not."""
    found = {}
    for kit, (_, names) in _KITS.items():
        for name in names:
            frame = getattr(kits[kit], name).copy()
            for column in frame.columns:
                if column not in _CASED:
                    frame[column] = frame[column].str.lower()
            found[name.strip("_")] = frame
    return found


@cache
def tool_names() -> frozenset[str]:
    """The 27 documented tools: the only names that are looked up."""
    return frozenset(tool["name"] for tool in documents())


@cache
def documents() -> tuple[dict[str, Any], ...]:
    """Name, description and JSON-schema parameters of each tool."""
    found = []
    for kit in KITS:
        for schema in getattr(_module(kit), f"{kit}_tool_schemas"):
            found.append({k: schema[k] for k in ("name", "description", "parameters")})
    return tuple(found)


@cache
def _pristine() -> dict[str, Any]:
    return {kit: getattr(_module(kit), name)() for kit, (name, _) in _KITS.items()}


@cache
def _module(name: str) -> Any:
    """One module of the package, loaded by its path; it imports pandas and nothing of its own."""
    path = package_folder() / "workplace_assistant_tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"_workplace_{name}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UserError(f"environment workplace: {path} is missing; {INSTALL} again")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package_folder() -> Path:
    """Where the package's workplace lies. Raises: UserError saying how to install it."""
    root = separate_folder("resources_servers")
    if root is None or not (root / "workplace_assistant").is_dir():
        raise UserError(f"environment workplace needs nemo-gym, which is not installed; {INSTALL}")
    return root / "workplace_assistant"
