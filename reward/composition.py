"""Several checks as one reward, with a record of every part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from reward.reply import CheckedReply
from reward.verdict import Verdict
from workbench.conversation import CheckSpec
from workbench.errors import UserError, unknown_name

_SPEC_KEYS = ("name", "kind", "reference", "options", "weight")


@dataclass(frozen=True)
class Component:
    """One weighted part. Example: Component("math", 0.8, check("math", text, "42"))."""

    name: str
    weight: float
    verdict: Verdict


def compose(components: Sequence[Component]) -> Verdict:
    """The weighted mean of the parts' values.

    One undecided part makes the whole undecided (value None; "error" before "timeout"): a missing
    part is never counted as 0. The whole is wrong_format where every part is.
    parts: {"components": {name: {"value", "status", "weight", "parts"}}}.
    """
    _validate([(c.name, c.weight) for c in components])
    record = {
        c.name: {
            "value": c.verdict.value,
            "status": c.verdict.status,
            "weight": c.weight,
            "parts": c.verdict.parts,
        }
        for c in components
    }
    statuses = [c.verdict.status for c in components]
    if "error" in statuses or "timeout" in statuses:
        status = "error" if "error" in statuses else "timeout"
        return Verdict(None, status, {"components": record})  # type: ignore[arg-type]
    if all(status == "wrong_format" for status in statuses):
        return Verdict(0.0, "wrong_format", {"components": record})
    total = sum(c.weight for c in components)
    value = sum(c.weight * (c.verdict.value or 0.0) for c in components) / total
    return Verdict(value, "ok", {"components": record})


def check_composite(reply: CheckedReply, reference: Any) -> Verdict:
    """Run several checks on one reply and compose them.

    reference: [{"kind", "reference", "options"?, "weight"? (1.0), "name"? (the kind)}].
    """
    from reward.dispatch import check_reply  # noqa: PLC0415 - dispatch names this function: a cycle

    return compose(
        [
            Component(
                p.name, p.weight, check_reply(p.spec.kind, reply, p.spec.reference, p.spec.options)
            )
            for p in read_parts(reference)
        ]
    )


class CheckPart(NamedTuple):
    """One check of a composite one."""

    name: str
    weight: float
    spec: CheckSpec


def read_parts(reference: Any) -> list[CheckPart]:
    """The parts of a composite check's reference. Raises: UserError where it is none."""
    if not isinstance(reference, Sequence) or isinstance(reference, str):
        raise UserError("the reference of a composite check is a list of checks")
    parts = []
    for given in reference:
        if not isinstance(given, Mapping) or "kind" not in given or "reference" not in given:
            raise UserError(f"a part of a composite check needs kind and reference, got {given!r}")
        for key in given:
            if key not in _SPEC_KEYS:
                raise unknown_name("key of a composite check's part", str(key), _SPEC_KEYS)
        spec = CheckSpec(given["kind"], given["reference"], dict(given.get("options") or {}))
        name, weight = str(given.get("name", given["kind"])), float(given.get("weight", 1.0))
        parts.append(CheckPart(name, weight, spec))
    _validate([(part.name, part.weight) for part in parts])
    return parts


def _validate(weights: Sequence[tuple[str, float]]) -> None:
    names = [name for name, _ in weights]
    if len(set(names)) != len(names):
        raise UserError(f"two parts of a reward have one name: {', '.join(sorted(names))}")
    bad = [f"{name}={weight}" for name, weight in weights if not 0.0 <= weight < float("inf")]
    if bad:
        raise UserError(f"reward weights must be finite and at least 0, got {', '.join(bad)}")
    if sum(weight for _, weight in weights) <= 0.0:
        raise UserError("a reward needs at least one part of positive weight")
