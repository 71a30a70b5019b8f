"""An environment of the user's own, as the loop plays it: every episode in a process of its own.

    mine.py:World           a file; relative paths start where the command was given
    package.module:World    a module that Python finds

A class with tools (public typed methods) or `step(self, reply)`, `reset(self, task)`, and what judges:
`verify(self)`, or rewards turn by turn. docs/environments.md has all of it. A crash, a hang, another type and
a tool that raises leave the episode without a verdict. A tool tells the model what it did wrong by what it
returns, or by a ValueError.
"""

import time
import weakref
from typing import Any

from environments.protocol import EnvironmentFailed, Gold, Step, Task
from reward.plugin import LOAD_LIMIT_S, stamp_of
from reward.sessions import NoSession, Session, shared_nursery
from reward.verdict import Verdict, failed, timed_out
from workbench.chat import Reply
from workbench.custom_code import target_of
from workbench.errors import UserError

WORKER = "environments.custom.worker"


class Own:
    """Implements environments.protocol.Environment. Its task's data says which class, and its limits."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._limits: dict[str, Any] = {}
        self._spent = 0.0

    def reset(self, task: Task) -> None:
        """See protocol. Raises: EnvironmentFailed."""
        own = task.data["own"]
        self.close()
        self._limits, self._spent = own, 0.0
        target = target_of(own["type"])
        nursery = shared_nursery(
            f"{WORKER}:preload",
            [target, stamp_of(own["type"])],
            int(own["memory_gb"] * 2**30),
            LOAD_LIMIT_S,
        )
        try:
            session = nursery.session()
        except NoSession as error:
            raise EnvironmentFailed(failed(f"{own['type']}: {error}")) from None
        self._session = session
        weakref.finalize(self, session.close)
        offered = [tool["name"] for tool in task.tools]
        self._call("begin", target, own["options"], task.data["row"], offered, own["result_chars"])

    def step(self, reply: Reply) -> Step:
        """See protocol. Raises: EnvironmentFailed."""
        given = {
            "text": reply.text or reply.answer,
            "answer": reply.answer,
            "tool_calls": reply.tool_calls,
        }
        found = self._call("step", given)
        return Step(found["messages"], done=found["done"], reward=found["reward"])

    def verify(self) -> Verdict:
        """See protocol. What its turns earned is in the value."""
        try:
            found = self._call("verify")
        except EnvironmentFailed as error:
            return error.verdict
        if "error" in found:
            return failed(found["error"])
        return Verdict(found["value"], found["status"], found["parts"])

    def gold(self) -> list[Gold]:
        """See protocol. What the class's `solve` returns."""
        turns: list[Gold] = self._call("solve")
        for turn in turns:
            if not isinstance(turn, str) and not _are_calls(turn):
                raise UserError(
                    f"{self._limits['type']}: solve() gave the turn {turn!r:.200}; give for each turn a text, or a list "
                    'of calls {"name", "arguments"}'
                )
        return turns

    def close(self) -> None:
        """End its process."""
        if self._session is not None:
            self._session.close()
            self._session = None

    def _call(self, function: str, *args: Any) -> Any:
        if self._session is None:
            raise EnvironmentFailed(failed(f"{function}: the episode's process has ended"))
        limit, whole = float(self._limits["timeout_s"]), self._limits["episode_s"]
        started = time.monotonic()
        done = self._session.call(f"{WORKER}:{function}", list(args), timeout_s=limit)
        self._spent += time.monotonic() - started
        if done.status == "timeout":
            raise EnvironmentFailed(timed_out(f"{function}: {done.reason}"))
        if done.status == "error":
            raise EnvironmentFailed(failed(f"{function}: {done.reason}"))
        if whole is not None and self._spent > whole:
            self.close()
            raise EnvironmentFailed(timed_out(f"{function}: over {whole:g} s in the environment"))
        return done.value


def _are_calls(turn: Any) -> bool:
    return isinstance(turn, list) and all(
        isinstance(call, dict) and isinstance(call.get("name"), str) for call in turn
    )
