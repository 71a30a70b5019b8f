"""Several checks as one reward, with a record of every part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from reward.reply import CheckedReply
from reward.verdict import Verdict
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
    _validate(components)
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

    if not isinstance(reference, Sequence) or isinstance(reference, str):
        raise UserError("the reference of a composite check is a list of checks")
    components = []
    for spec in reference:
        if not isinstance(spec, Mapping) or "kind" not in spec or "reference" not in spec:
            raise UserError(f"a part of a composite check needs kind and reference, got {spec!r}")
        for key in spec:
            if key not in _SPEC_KEYS:
                raise unknown_name("key of a composite check's part", str(key), _SPEC_KEYS)
        options = dict(spec.get("options") or {})
        verdict = check_reply(spec["kind"], reply, spec["reference"], options)
        name = str(spec.get("name", spec["kind"]))
        components.append(Component(name, float(spec.get("weight", 1.0)), verdict))
    return compose(components)


def _validate(components: Sequence[Component]) -> None:
    names = [c.name for c in components]
    if len(set(names)) != len(names):
        raise UserError(f"two parts of a reward have one name: {', '.join(sorted(names))}")
    bad = [f"{c.name}={c.weight}" for c in components if not 0.0 <= c.weight < float("inf")]
    if bad:
        raise UserError(f"reward weights must be finite and at least 0, got {', '.join(bad)}")
    if sum(c.weight for c in components) <= 0.0:
        raise UserError("a reward needs at least one part of positive weight")
