"""Many checks at once: bounded, parallel, each with its own deadline."""

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from reward.verdict import Verdict, timed_out
from workbench.errors import UserError


@dataclass(frozen=True)
class CheckItem:
    """One check to run. Example: CheckItem("math", "\\\\boxed{42}", "42")."""

    kind: str
    response_text: str
    reference: Any
    options: dict[str, Any] = field(default_factory=dict)


def check_all(
    items: Sequence[CheckItem | tuple[Any, ...]],
    *,
    workers: int = 2,
    timeout_s: float | None = None,
) -> list[Verdict]:
    """Run checks as `decide_all` does; the verdicts in the same order."""
    work = [partial(_checked, _item(item)) for item in items]
    return decide_all(work, workers=workers, timeout_s=timeout_s)


def decide_all(
    questions: Sequence[Callable[[], Verdict]],
    *,
    workers: int = 2,
    timeout_s: float | None = None,
) -> list[Verdict]:
    """Ask `workers` at a time for their verdicts and return these in the same order.

    One whose status is "error" (its worker was killed, its sandbox did not start) is asked once
    more; parts["attempts"] then says 2. One that was stopped at its limit is not.
    timeout_s bounds the whole batch: what has not been decided by then is Verdict(None,
    "timeout"). Without it each check is bounded by its own limit. The work itself happens in
    worker processes and sandboxes, so threads are enough here. A UserError in any item is raised.
    """
    if workers < 1:
        raise UserError(f"check_all needs at least one worker, got workers={workers}")
    stop = threading.Event()
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    executor = ThreadPoolExecutor(max_workers=workers, thread_name_prefix="check")
    try:
        futures = [executor.submit(_run, question, stop) for question in questions]
        return [_result(future, deadline) for future in futures]
    finally:
        # Checks under way end at their own limits; nothing here waits for them.
        stop.set()
        executor.shutdown(wait=timeout_s is None, cancel_futures=True)


def _item(item: CheckItem | tuple[Any, ...]) -> CheckItem:
    return item if isinstance(item, CheckItem) else CheckItem(*item)


def _checked(item: CheckItem) -> Verdict:
    from reward.dispatch import check  # noqa: PLC0415 - dispatch offers check_many: a cycle

    return check(item.kind, item.response_text, item.reference, **item.options)


def _run(question: Callable[[], Verdict], stop: threading.Event) -> Verdict:
    if stop.is_set():
        return timed_out("the batch's time was over before this check began")
    verdict = question()
    if verdict.status != "error" or stop.is_set():
        return verdict
    again = question()
    return replace(again, parts={**again.parts, "attempts": 2})


def _result(future: "Future[Verdict]", deadline: float | None) -> Verdict:
    try:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        return future.result(timeout=left)
    except FutureTimeout:
        future.cancel()
        return timed_out("the batch's time was over before this check was decided")
