"""What is wrong with a check whatever the reply is: asked before replies are sampled for it."""

from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from reward.composition import read_parts
from reward.dispatch import check, check_reply, must_take
from reward.plugin import is_plugin
from reward.reply import read_reply
from workbench.conversation import CheckSpec
from workbench.errors import UserError

# They might ask another model.
_ASKING = ("judged-match", "judged-better")
# A worker process reads their references, and only with a reply.
_READ_BY_WORKERS = ("math", "instructions")
_LIMITS = ("_s", "_mb")
_ANY_REPLY = "\\boxed{0}"


def check_options(spec: CheckSpec, options: Mapping[str, Any]) -> None:
    """Raises: UserError where the kind of check does not exist or take these options, or where its
    reference is none.

    An empty reply is checked with them, which every checker decides by itself, without a process.
    """
    for part in _parts(spec, options):
        # A function of the user's own may want more of a reply than there is.
        if part.kind in _ASKING or is_plugin(part.kind):
            function = must_take(part.kind, part.options)
            if not is_plugin(part.kind):
                _must_be_of_type(part, function)
            continue
        _must_be_of_type(part, must_take(part.kind, part.options))
        if part.reference is None and not _wants_no_call(part):
            raise UserError(f"the reference of its {part.kind} check is null")
        verdict = check_reply(part.kind, read_reply(""), part.reference, part.options)
        if verdict.status == "error":
            raise UserError(f"its {part.kind} check breaks: {verdict.parts.get('reason', '?')}")


def check_reference(spec: CheckSpec, options: Mapping[str, Any]) -> None:
    """As `check_options`, and what worker processes read of the reference (milliseconds each).

    Raises: UserError, also where math-verify cannot read the reference or an instruction is unknown.
    A worker that dies says nothing about the check, so it raises nothing.
    """
    check_options(spec, options)
    for part in _parts(spec, options):
        if part.kind in _READ_BY_WORKERS:
            verdict = check(part.kind, _ANY_REPLY, part.reference, **part.options)
            if verdict.parts.get("bad_reference"):
                raise UserError(f"its {part.kind} check breaks: {verdict.parts['reason']}")


def _must_be_of_type(spec: CheckSpec, function: Callable[..., Any]) -> None:
    """Raises: UserError where an option is of a type different from its checker's, or a limit is 0."""
    for name, given in spec.options.items():
        try:
            _type_of(function, name).validate_python(given, strict=True)
        except ValidationError as error:
            said = error.errors(include_url=False)[0]["msg"].removeprefix("Input should be ")
            raise UserError(
                f"option {name} of its {spec.kind} check is {given!r:.60}; it must be {said}"
            ) from None
        if name.endswith(_LIMITS) and not 0 < given < float("inf"):
            raise UserError(
                f"option {name} of its {spec.kind} check is {given!r:.60}; it must be above 0"
            )


@cache
def _type_of(function: Callable[..., Any], option: str) -> "TypeAdapter[Any]":
    return TypeAdapter(get_type_hints(function)[option])


def _parts(spec: CheckSpec, options: Mapping[str, Any]) -> Iterator[CheckSpec]:
    """The check with the options over its own, or those that it is composed of."""
    whole = {**spec.options, **options}
    if spec.kind != "composite":
        yield CheckSpec(spec.kind, spec.reference, whole)
        return
    must_take(spec.kind, whole)
    for part in read_parts(spec.reference):
        yield from _parts(part.spec, {})


def _wants_no_call(spec: CheckSpec) -> bool:
    return spec.kind == "tools" and str(spec.options.get("category")).endswith("relevance")
