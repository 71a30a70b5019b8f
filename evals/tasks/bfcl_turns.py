"""A multi-turn entry of BFCL played by a model: its calls run on the simulated APIs.

The official runner evaluates call strings that a model wrote; here a call is a name and JSON
arguments, and only names of the entry's own tools ever reach it, in a process that can be killed.
"""

import importlib
import keyword
from collections.abc import Mapping
from functools import cache
from typing import Any

from reward.verdict import Verdict, decided, failed, timed_out
from reward.workers import CallResult, shared_pool
from workbench.chat import Reply
from workbench.conversation import Conversation, Message
from workbench.errors import UserError

# Steps that the official runner allows in one turn; the step after them ends the entry.
MOST_STEPS = 20
# Raises NameError where it is evaluated, as any unknown name would.
_UNKNOWN = "undefined_function()"
_TIMEOUT_S = 60.0
# Of a number that a call computes: seconds of work. Python writes out no whole number of over 4,300.
_MOST_DIGITS = 100_000
Calls = list[dict[str, Any]]


def call_string(call: Mapping[str, Any], names: set[str]) -> str:
    """The call as the simulated APIs' runner reads it: literals only, and only known names.

    >>> call_string({"name": "cd", "arguments": {"folder": "a'b"}}, {"cd"})
    'cd(folder="a\\'b")'
    """
    arguments = call["arguments"]
    keys_fit = all(key.isidentifier() and not keyword.iskeyword(key) for key in arguments)
    if call["name"] not in names or not keys_fit or is_endless(call):
        return _UNKNOWN
    return f"{call['name']}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"


def is_endless(call: Mapping[str, Any]) -> bool:
    """Whether MathAPI would work on this for minutes, or years. The official runner would hang; here
    the sample would have no verdict, through the model's own doing."""
    arguments = call["arguments"]
    digits = arguments.get("precision", 0)
    if call["name"] in ("logarithm", "square_root"):
        return isinstance(digits, int | float) and digits > _MOST_DIGITS
    base, exponent = arguments.get("base"), arguments.get("exponent")
    if call["name"] == "power" and isinstance(base, int) and isinstance(exponent, int):
        return base.bit_length() * exponent > 4 * _MOST_DIGITS
    return False


@cache
def _more_tools() -> str:
    """What the official runner says in the user's place when it shows tools that it had held back."""
    prompts = importlib.import_module("bfcl_eval.constants.default_prompts")
    return str(prompts.DEFAULT_USER_PROMPT_FOR_ADDITIONAL_FUNCTION_FC)


class MultiTurn:
    """Implements `Episode` for one multi-turn question."""

    def __init__(self, question: Conversation) -> None:
        assert question.check is not None
        self.question = question
        self.entry: dict[str, Any] = question.check.options["entry"]
        self.gold: list[list[str]] = question.check.reference
        self.tools = list(question.tools or [])
        held = [tool for tools in self.entry["missed_function"].values() for tool in tools]
        # The official runner executes a tool before it is shown, should the model guess it.
        self._names = {tool["name"] for tool in [*self.tools, *held]}
        self.messages: list[Message] = []
        self.turns: list[list[list[str]]] = []
        """Of each turn the steps, of each step its calls as strings."""
        self._steps_here = 0
        self._over = False
        self._begin_turn()

    def ask(self) -> Conversation | None:
        """See Episode."""
        if self._over:
            return None
        return Conversation(self.question.id, self.question.domain, self.messages, self.tools)

    def answer(self, reply: Reply) -> None:
        """See Episode. A reply without a readable call ends the turn."""
        calls = reply.tool_calls or []
        if not calls:
            self.messages.append({"role": "assistant", "content": reply.answer})
            self._end_turn()
            return
        self.messages.append({"role": "assistant", "content": reply.answer, "tool_calls": calls})
        self.turns[-1].append([call_string(call, self._names) for call in calls])
        results = self._played()
        for result, call in zip(results, calls, strict=True):
            if call["name"] not in self._names:
                result = f"Error during execution: name {call['name']!r} is not defined"
            elif is_endless(call):
                result = "Error during execution: the numbers are too large"
            self.messages.append({"role": "tool", "content": result})
        self._steps_here += 1
        if self._steps_here > MOST_STEPS:
            self._over = True

    def verdict(self) -> Verdict:
        """The official checker's: states after every turn, and results that had to be seen."""
        if len(self.turns) != len(self.gold):
            return decided(0.0, error_type="multi_turn:force_terminated", calls=self.turns)
        result = self._worker("judge", [self._setup(), self.turns, self.gold])
        if result.status == "timeout":
            return timed_out(result.reason)
        if result.status == "error":
            return failed(result.reason)
        found: dict[str, Any] = result.value
        if not found["valid"]:
            return decided(0.0, error_type=found["error_type"], calls=self.turns)
        return decided(1.0, calls=self.turns)

    def _begin_turn(self) -> None:
        place = len(self.turns)
        asked = self.entry["question"][place]
        held = self.entry["missed_function"].get(str(place))
        if held:
            self.tools = [*self.tools, *held]
            asked = [{"role": "user", "content": _more_tools()}]
        self.messages = [*self.messages, *({k: m[k] for k in ("role", "content")} for m in asked)]
        self.turns.append([])
        self._steps_here = 0

    def _end_turn(self) -> None:
        if len(self.turns) == len(self.entry["question"]):
            self._over = True
        else:
            self._begin_turn()

    def _played(self) -> list[str]:
        """Results of the newest step. All steps are played again on fresh APIs: no state is kept."""
        steps = [step for turn in self.turns for step in turn]
        result = self._worker("play", [self._setup(), steps])
        if result.status != "ok":
            raise UserError(f"the simulated APIs gave no result: {result.reason}")
        found: list[str] = result.value
        return found

    def _setup(self) -> dict[str, Any]:
        return {k: self.entry[k] for k in ("id", "initial_config", "involved_classes")}

    @staticmethod
    def _worker(function: str, arguments: list[Any]) -> CallResult:
        target = f"evals.tasks.bfcl_worker:{function}"
        return shared_pool().call(target, arguments, timeout_s=_TIMEOUT_S)
