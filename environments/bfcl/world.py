"""One episode of BFCL's multi-turn tasks, carried out and judged by the package's own code.

The official runner evaluates call strings that a model wrote. Here a call is a name and JSON arguments;
only the APIs' documented tools and literals ever reach it, in a process that can be killed.
"""

import itertools
import keyword
import os
from collections.abc import Mapping
from typing import Any

from environments.protocol import Step, Task, ToolCall, tool_result
from reward.bfcl import documents, json_schema, official, read_call
from reward.line import CallResult
from reward.verdict import Verdict, decided, failed, timed_out
from reward.workers import shared_pool
from workbench.chat import Reply

# Raises NameError where it is evaluated, as any unknown name would.
_UNKNOWN = "undefined_function()"
_TIMEOUT_S = 60.0
# Digits of a number that a call may compute. The package has no limit and would work on for minutes or
# years; 100,000 digits take it seconds, so they are left to it.
MOST_DIGITS = 100_000
_TOO_LARGE = "Error during execution: the numbers are too large"
_NUMBER = itertools.count()


class Bfcl:
    """Implements environments.protocol.Environment.

    Scored as by the package: at the end of every user turn that has a solution, the public state of
    every API equals that after the solution, and every answer that the solution got has been seen.
    """

    def __init__(self) -> None:
        self._data: dict[str, Any] = {}
        self.turns: list[list[list[str]]] = []
        """Of each turn the steps, of each step its calls as strings."""

    def reset(self, task: Task) -> None:
        """See protocol."""
        self._data = task.data
        self._names = {d["name"] for api in task.data["apis"] for d in documents(api)}
        self._tools = list(task.tools)
        self._episode = f"e{os.getpid()}x{next(_NUMBER)}"
        self.turns = [[]]
        self._ended = ""

    def step(self, reply: Reply) -> Step:
        """See protocol. A reply without a readable call ends the user's turn, the last turn the
        episode; so does one step over the package's limit, which fails it."""
        calls = reply.tool_calls or []
        if not calls:
            return self._next_turn()
        self.turns[-1].append([call_string(call, self._names) for call in calls])
        found = self._worker("play", [step for turn in self.turns for step in turn])
        if found.status != "ok":
            raise RuntimeError(f"the simulated APIs gave no result: {found.reason}")
        answers = [self._answer(c, text) for c, text in zip(calls, found.value, strict=True)]
        over = len(self.turns[-1]) > step_limit()
        if over:
            self._ended = f"over {step_limit()} steps in turn {len(self.turns) - 1}"
        return Step([tool_result(answer) for answer in answers], done=over)

    def verify(self) -> Verdict:
        """See protocol. The official checker's verdict; one cut short has failed, as in its runner."""
        reason = self._ended or f"ended in turn {len(self.turns) - 1}"
        if self._ended != "all turns" or len(self.turns) != len(self._data["solution"]):
            why = "multi_turn:force_terminated"
            return decided(0.0, error_type=why, reason=reason, calls=self.turns)
        found = self._worker("judge", self.turns, self._data["solution"])
        if found.status == "timeout":
            return timed_out(found.reason)
        if found.status == "error":
            return failed(found.reason)
        wrong = {} if found.value["valid"] else {"error_type": found.value["error_type"]}
        return decided(found.value["valid"], **wrong, calls=self.turns)

    def gold(self) -> list[list[ToolCall]]:
        """See protocol."""
        parameters = parameters_of(self._data["apis"])
        return [[read_call(text, parameters) for text in turn] for turn in self._data["solution"]]

    def _next_turn(self) -> Step:
        place = len(self.turns)
        if place == len(self._data["turns"]):
            self._ended = "all turns"
            return Step(done=True)
        self.turns.append([])
        late = self._data["late"].get(str(place))
        if late is None:
            return Step([dict(message) for message in self._data["turns"][place]])
        # The official runner shows them behind the others, and says so in the user's place.
        known = {d["name"]: d for api in self._data["apis"] for d in documents(api)}
        self._tools = [*self._tools, *(json_schema(known[name]) for name in late)]
        prompts = official("constants.default_prompts")
        said = str(prompts.DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC)
        return Step([{"role": "user", "content": said}], tools=self._tools)

    def _answer(self, call: ToolCall, result: str) -> str:
        name = str(call["name"])
        if name not in self._names:
            return f"Error during execution: name {name[:60]!r} is not defined"
        return _TOO_LARGE if is_endless(call) else result

    def _worker(self, function: str, *arguments: Any) -> CallResult:
        data = self._data
        entry = {
            "id": data["id"],
            "initial_config": data["config"],
            "involved_classes": data["apis"],
        }
        target = f"environments.bfcl.worker:{function}"
        return shared_pool().call(target, [self._episode, entry, *arguments], timeout_s=_TIMEOUT_S)


def parameters_of(apis: list[str]) -> dict[str, list[str]]:
    """Tool -> the names of its parameters, in the documents' order."""
    return {d["name"]: list(d["parameters"]["properties"]) for a in apis for d in documents(a)}


def step_limit() -> int:
    """Steps that the package allows in one turn; the step after them ends the episode."""
    return int(official("constants.default_prompts").MAXIMUM_STEP_LIMIT)


def call_string(call: Mapping[str, Any], names: set[str]) -> str:
    """The call as the package's runner reads it: literals only, and only known names.

    >>> call_string({"name": "cd", "arguments": {"folder": "a'b"}}, {"cd"})
    'cd(folder="a\\'b")'
    """
    name, arguments = str(call["name"]), call["arguments"]
    keys_fit = all(key.isidentifier() and not keyword.iskeyword(key) for key in arguments)
    if name not in names or not keys_fit or is_endless(call):
        return _UNKNOWN
    return f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def is_endless(call: Mapping[str, Any]) -> bool:
    """Whether MathAPI would compute a number of more than MOST_DIGITS digits."""
    arguments = call["arguments"]
    digits = arguments.get("precision", 0)
    if call["name"] in ("logarithm", "square_root"):
        return isinstance(digits, int | float) and digits > MOST_DIGITS
    base, exponent = arguments.get("base"), arguments.get("exponent")
    if call["name"] == "power" and isinstance(base, int) and isinstance(exponent, int):
        return base.bit_length() * exponent > 4 * MOST_DIGITS
    return False
