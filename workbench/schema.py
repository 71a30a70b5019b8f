"""The base of every recipe section: frozen, strict, and with errors a user can act on."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated, Any, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from workbench.errors import UserError, unknown_name
from workbench.recipe_yaml import first_word

Betas = tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]]
"""Adam's two."""

KEYS_OF_A_STAGE = "keys of a stage"
StageKeys = Annotated[dict[str, Any], KEYS_OF_A_STAGE]
"""A mapping of keys of some stage kind, as a recipe has them there."""


class Section(BaseModel):
    """A part of a recipe. Unknown keys are errors; defaults live on the fields."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False
    )

    @classmethod
    def read(cls, values: Any, *, where: str) -> Self:
        """Validate a raw mapping; `where` is its dotted place in the recipe, for messages.

        Raises: UserError with one line for the first problem found.
        """
        try:
            made = cls.model_validate(values)
        except ValidationError as error:
            raise UserError(first_problem(error, cls, where=where)) from None
        # Where the schema asks for text or for true or false, pydantic has made it that.
        if (found := first_word(made, where)) is not None:
            place, word = found
            raise UserError(
                f"recipe: {place}: {word} may mean true or false or the word; write true, false, or "
                f'"{word}" in quotes'
            )
        return made


def first_problem(error: ValidationError, model: type[BaseModel], *, where: str) -> str:
    """One line for the first of pydantic's errors: place, what was got, what is allowed."""
    problems = error.errors(include_url=False)
    problem = problems[0]
    place = ".".join([where, *(str(part) for part in problem["loc"])]).strip(".")
    at = f"recipe: {place}: " if place else "recipe: "
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if problem["type"] == "extra_forbidden":
        return _unknown_key(place, str(problem["loc"][-1]), _keys_at(model, problem["loc"])) + more
    if problem["type"] == "missing":
        return f"recipe: {place} is missing; add it{more}"
    if problem["type"] == "value_error":
        return f"{at}{problem['ctx']['error']}{more}"
    if problem["type"].startswith("union_tag_"):
        return _wrong_tag(at, problem, model) + more
    got = _short(problem["input"])
    if problem["type"] == "string_type" and isinstance(problem["input"], bool | int | float):
        more = f"; write it in quotes where it is text{more}"
    return f"{at}got {got}; {problem['msg'][0].lower()}{problem['msg'][1:]}{more}"


def _wrong_tag(at: str, problem: Any, model: type[BaseModel]) -> str:
    """A mapping whose `type` is missing or none of those that the place takes."""
    key = str(problem["ctx"]["discriminator"]).strip("'")
    if key.endswith("()"):  # a function chooses the branch, by the same key
        key = "type"
    if problem["type"] == "union_tag_not_found":
        models = [m for m in _models_at(model, problem["loc"]) if key in m.model_fields]
        tags = {str(t) for m in models for t in get_args(m.model_fields[key].annotation)}
        return f"{at}{key!r} is missing; add it, one of: {', '.join(sorted(tags))}"
    tags = {tag.strip(" '") for tag in str(problem["ctx"]["expected_tags"]).split(",")}
    return f"{at}{unknown_name(key, str(problem['ctx']['tag']), tags)}"


def _unknown_key(place: str, key: str, allowed: Iterable[str]) -> str:
    names = sorted(allowed)
    near = get_close_matches(key, names, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]!r}?" if near else ";"
    return f"recipe: unknown key {place!r}{hint} allowed here: {', '.join(names)}"


def _keys_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[str]:
    """The field names valid at the mapping in which the unknown key `loc[-1]` stands."""
    return [name for m in _models_at(model, loc[:-1]) for name in m.model_fields]


def _models_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> list[type[BaseModel]]:
    """The sections that the mapping at a place can be."""
    models: list[type[BaseModel]] = [model]
    for part in loc:
        inner = [m for parent in models for m in _models_under(parent, part)]
        models = inner or models
    return models


def _models_under(model: type[BaseModel], part: int | str) -> list[type[BaseModel]]:
    field = model.model_fields.get(str(part))
    if field is not None:
        return _models_in(field.annotation)
    # pydantic names the branch of a tagged union by its tag, and list items by their index.
    tag = model.model_fields.get("type")
    return [model] if isinstance(part, int) or (tag and part in get_args(tag.annotation)) else []


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [m for arg in get_args(annotation) for m in _models_in(arg)]


def _short(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
