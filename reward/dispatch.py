"""`check`: one entrance to every checker; each kind is imported when first asked for."""

import importlib
import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Any

from reward.pool import CheckItem, check_all
from reward.reply import CheckedReply, read_reply
from reward.verdict import Verdict, failed
from workbench.conversation import CheckSpec
from workbench.errors import UserError, one_line, unknown_name

# kind -> "module:function"; each function takes (reply, reference, *, options...) -> Verdict.
CHECKERS = {
    "math": "reward.math_answer:check_math",
    "choice": "reward.choice:check_choice",
    "tools": "reward.tools:check_tools",
    "instructions": "reward.instructions:check_instructions",
    "code": "reward.code:check_code",
    "contest": "reward.contest:check_contest",
    "contains": "reward.contains:check_contains",
    "refusal": "reward.refusal:check_refusal",
    "judged-match": "reward.judging:check_match",
    "judged-better": "reward.judging:check_better",
    "composite": "reward.composition:check_composite",
}


def check(kind: str, response_text: str, reference: Any, **options: Any) -> Verdict:
    """Score one full model reply (thinking included) against a reference.

    >>> check("math", "<think>6*7</think>\\\\boxed{42}", "42").value
    1.0

    kinds: math, choice, tools, instructions, code, contest, contains, refusal, judged-match,
    judged-better, composite; each checker's function documents its reference and options.
    `thinking_opened=True` (any kind) says that the prompt ended inside an open `<think>`. Raises
    UserError for an unknown kind or option and for a reference of the wrong shape; any other failure
    is a Verdict of status "error". Blocks; call it from a thread in async code.
    """
    thinking_opened = bool(options.pop("thinking_opened", False))
    if not isinstance(response_text, str):
        raise UserError(
            f"check({kind!r}) got a reply of type {type(response_text).__name__}; "
            "pass the reply's text"
        )
    reply = read_reply(response_text, thinking_opened=thinking_opened)
    return check_reply(kind, reply, reference, options)


def check_reply(kind: str, reply: CheckedReply, reference: Any, options: dict[str, Any]) -> Verdict:
    """`check` on a reply that has already been parsed."""
    function = must_take(kind, options)
    try:
        return function(reply, reference, **options)
    except UserError:
        raise
    except Exception as error:  # noqa: BLE001 - a broken check is a status, never a score
        return failed(one_line(error), kind=kind)


def must_take(kind: str, options: Mapping[str, Any]) -> Callable[..., Verdict]:
    """The checker of this kind, which takes these options.

    Raises: UserError where there is no such kind or option, or one that the kind needs is missing.
    """
    function, allowed = _checker(kind)
    for name in options:
        if name not in allowed:
            raise unknown_name(f"option of check {kind!r}", name, [*allowed, "thinking_opened"])
    missing = [name for name, needed in allowed.items() if needed and name not in options]
    if missing:
        raise UserError(f"check {kind!r} needs the option {missing[0]!r}, which is not given")
    return function


def must_be_checkable(specs: Iterable[CheckSpec | None]) -> None:
    """Raises: UserError where one of these checks runs programs and this machine has no sandbox.

    Asked before anything is sampled: afterwards every reply would be a failed check.
    """
    if any(
        spec is not None and _runs_code(spec.kind, spec.reference, spec.options) for spec in specs
    ):
        from reward.sandbox import require_sandbox  # noqa: PLC0415 - only where programs are checked

        require_sandbox()


def _runs_code(kind: str, reference: Any, options: Mapping[str, Any]) -> bool:
    if kind in ("code", "contest"):
        return not options.get("allow_weak")
    if kind != "composite" or not isinstance(reference, Sequence):
        return False
    parts = [part for part in reference if isinstance(part, Mapping)]
    return any(
        _runs_code(str(p.get("kind")), p.get("reference"), p.get("options") or {}) for p in parts
    )


def check_many(items: Sequence[CheckItem | tuple[Any, ...]], *, workers: int = 2) -> list[Verdict]:
    """`check` over many items, `workers` at a time; same order.

    An item is a CheckItem or (kind, response_text, reference[, options]).
    """
    return check_all(items, workers=workers)


@cache
def _checker(kind: str) -> tuple[Callable[..., Verdict], dict[str, bool]]:
    if kind not in CHECKERS:
        raise unknown_name("kind of check", str(kind), CHECKERS)
    module, _, name = CHECKERS[kind].partition(":")
    function: Callable[..., Verdict] = getattr(importlib.import_module(module), name)
    parameters = inspect.signature(function).parameters.values()
    own = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    return function, {p.name: p.default is p.empty for p in own}
