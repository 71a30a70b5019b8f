"""How rows become documents: forms of rows, and which columns hold what a form needs. No torch."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any, Literal

from pydantic import Field, model_validator

from workbench.errors import UserError, unknown_name
from workbench.schema import Section

FormName = Literal[
    "conversation", "messages", "openai", "sharegpt", "alpaca", "question", "pairs", "labelled", "text"
]  # fmt: skip


@dataclass(frozen=True)
class Form:
    """What a row of a form holds: field -> the column that it stands in where nothing else is said.

    named: fields that are read only where `columns` names them.
    """

    needs: Mapping[str, str]
    takes: Mapping[str, str] = field(default_factory=dict)
    named: tuple[str, ...] = ("domain", "problem")

    @property
    def fields(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.needs, *self.takes, *self.named)


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


_OF_ALL = _same("id", "thinking")
# In this order a form is looked for where only `columns` is given.
FORMS: dict[str, Form] = {
    "messages": Form(_same("messages"), _OF_ALL, named=("tools", "domain", "problem")),
    "conversation": Form(
        _same("domain", "messages"), {**_OF_ALL, **_same("tools", "check", "problem")}, named=()
    ),
    "question": Form(
        _same("prompt"),
        {**_OF_ALL, **_same("answer", "kwargs", "system", "tools"), "reply": "completion"},
    ),
    "labelled": Form(
        {**_same("prompt", "label"), "reply": "completion"}, {**_OF_ALL, **_same("system", "tools")}
    ),
    "pairs": Form(
        _same("chosen", "rejected"),
        {**_OF_ALL, **_same("prompt", "system", "tools", "margin", "preference")},
    ),
    "alpaca": Form(
        {"prompt": "instruction", "reply": "output"},
        {**_OF_ALL, **_same("input", "system", "history")},
    ),
    "openai": Form(_same("messages"), {**_OF_ALL, **_same("tools")}),
    "sharegpt": Form({"messages": "conversations"}, {**_OF_ALL, **_same("system", "tools")}),
    "text": Form({"text": "messages"}, named=()),
}
CHECKED = ("conversation", "question")
"""Forms whose rows can have a check."""
PREFERENCES = ("pairs", "labelled")
"""Forms that say which replies are good."""


class ColumnsConfig(Section):
    """How a row becomes a document."""

    form: FormName = "messages"
    """What a row is. conversation: {id, domain, messages, tools?, check?, thinking?, problem?}. messages,
    openai, sharegpt: a dialogue. question: a prompt with an answer to check, a reply to learn, or both.
    alpaca: instruction, input and output. pairs: a chosen and a rejected reply. labelled: a reply and
    whether it is good. text: plain text, for pretraining alone. Left out beside `columns`: the first form
    that takes their fields. docs/recipes.md has the fields of each."""
    columns: dict[str, str | None] = Field(default_factory=dict)
    """Field of the form -> the column that holds it, e.g. {prompt: question, answer: answer}; null: such a
    field is not read. A field that is not named stands in the column of its own name."""
    column: str = "messages"
    """With messages and text: the column read; short for columns: {messages: COLUMN} or {text: COLUMN}."""
    tools_column: str | None = None
    """With messages: the column of tool schemas, a list or its JSON; null: no tools."""
    domain: str = "data"
    """The domain written on the conversations, where no column holds it."""
    system: str | None = None
    """A system message put before prompts that have none; null: none. Not for form conversation."""
    check: str = "math"
    """With question: the kind of check that the answer is the reference of."""
    check_options: dict[str, Any] = Field(default_factory=dict)
    """Options of that check, the same for every row."""
    answer_after: str | None = Field(None, min_length=1)
    """With question: the reference is what follows the last of this in the answer (GSM8K: "####"); null:
    all of it."""

    @model_validator(mode="before")
    @classmethod
    def _form_of_columns(cls, values: Any) -> Any:
        given = values.get("columns") if isinstance(values, dict) else None
        if not isinstance(given, dict) or not given or "form" in values:
            return values
        for name, form in FORMS.items():
            if set(given) <= set(form.fields) and (name != "messages" or "messages" in given):
                return {**values, "form": name}
        return {**values, "form": _nearest_form(set(given))}

    @model_validator(mode="after")
    def _fits(self) -> "ColumnsConfig":
        form = FORMS[self.form]
        for name, column in self.columns.items():
            if name not in form.fields:
                raise ValueError(str(unknown_name(f"field of form {self.form}", name, form.fields)))
            if column is None and name in form.needs:
                raise ValueError(f"form {self.form} needs {name}; columns: {name} cannot be null")
        if self.form in self.columns and self.column != type(self).model_fields["column"].default:
            raise ValueError(f"column {self.column!r} beside columns; leave it out")
        _only(self, "system", self.system is not None, [f for f in FORMS if f not in _NO_SYSTEM])
        for name in ("check", "check_options", "answer_after"):
            given = getattr(self, name) != type(self).model_fields[name].get_default(
                call_default_factory=True
            )
            _only(self, name, given, ["question"])
        if self.form == "question":
            _must_be_check(self.check, self.check_options)
        return self

    def column_of(self) -> dict[str, tuple[str, bool]]:
        """Field -> (its column, whether a row must have it)."""
        form = FORMS[self.form]
        named = {name: column for name, column in self.columns.items() if column is not None}
        if self.form in ("messages", "text"):
            named.setdefault(self.form, self.column)
        if self.tools_column is not None:
            named["tools"] = self.tools_column
        out = {name: (column, True) for name, column in named.items()}
        for name, column in form.needs.items():
            out.setdefault(name, (column, True))
        taken = {column for column, _ in out.values()}
        for name, column in form.takes.items():
            if name not in self.columns and column not in taken:
                out.setdefault(name, (column, False))
        return out

    def read_of(self, there: Collection[str]) -> list[str] | None:
        """The columns that are read, of those that are there; None: all, for one that is needed is not
        there, and the message names what is."""
        known = self.column_of().values()
        if any(needed and column not in there for column, needed in known):
            return None
        wanted = {"id", "uuid", *(column for column, _ in known)}
        return [column for column in there if column in wanted]


_NO_SYSTEM = ("conversation", "text")


def _only(config: ColumnsConfig, name: str, given: bool, forms: list[str]) -> None:
    if given and config.form not in forms:
        raise ValueError(f"{name} is for form {', '.join(forms)}, not for {config.form!r}")


def _must_be_check(kind: str, options: Mapping[str, Any]) -> None:
    # Most recipes have no such source, and the checkers' table is another package.
    from reward.dispatch import must_take  # noqa: PLC0415

    if ":" in kind:
        raise ValueError(
            f"check {kind!r}: a function of your own is a reward; write reward: {{kind: function, "
            f"function: {kind}}} in the stage, which is given the answer as the reference"
        )
    try:
        must_take(kind, options)
    except UserError as error:
        raise ValueError(str(error)) from None


def _nearest_form(given: set[str]) -> str:
    """The form that shares most fields, so that its message names the field that it does not take."""
    return max(FORMS, key=lambda name: len(given & set(FORMS[name].fields)))


def fields_of(row: Mapping[str, Any], columns: ColumnsConfig, *, where: str) -> dict[str, Any]:
    """The row by the fields of its form. Raises: UserError where a column is not there."""
    out = {}
    for name, (column, needed) in columns.column_of().items():
        if column in row:
            out[name] = row[column]
        elif needed:
            raise UserError(f"{where} {no_column(column, row)}")
    return out


def no_column(column: str, there: Any) -> str:
    """What to say of a column that is not among those."""
    names = list(there)
    near = get_close_matches(column, names, n=1)
    hint = f", did you mean {near[0]!r}?" if near else ";"
    return f"has no column {column!r}{hint} its columns are: {', '.join(names)}"
