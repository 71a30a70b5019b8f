"""Models to evaluate: a stage of the run, a checkpoint folder, a hub id, or a served model."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import UserError, name_problem
from workbench.hub import cached, must_answer
from workbench.rundir import RunDir
from workbench.served import ServedModel

_NAMED = re.compile(r"([A-Za-z0-9._-]+)=(.+)")
_HUB_ID = re.compile(r"[A-Za-z0-9._-]+/[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Model:
    """name: its folder under evals/. place: a checkpoint folder or an endpoint's address. how: one behind
    an endpoint is asked; None: as the defaults say."""

    name: str
    place: str
    how: ServedModel | None = None

    @property
    def served(self) -> bool:
        """Whether it is behind an endpoint."""
        return self.place.startswith(("http://", "https://"))

    @classmethod
    def of(cls, name: str, served: ServedModel) -> "Model":
        """A model behind an endpoint."""
        return cls(name, f"{served.url}#{served.served_name}", served)

    @classmethod
    def at(cls, address: str, name: str = "") -> "Model":
        """The one at `http://host/v1#name`, asked as the defaults say. Raises: UserError."""
        served = ServedModel.read({"endpoint": address}, where="models")
        return cls.of(name or _slug(served.served_name or address), served)


def resolve_models(
    words: Sequence[str], run: RunDir, stages: Sequence[str], served: Mapping[str, ServedModel] = {}
) -> list[Model]:
    """Models by stage name, name in the recipe's `models`, folder, hub id or `http://host/v1#name`; any
    but a stage also as `NAME=...`, under a name of its own.

    Raises: UserError where one is none of these, has no model yet, or two have the same name.
    """
    models = [_resolve(word, run, stages, served) for word in words]
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise UserError(
                f"two models are called {name!r}; give one a name of its own, as in "
                f"--models {name}-2=PLACE, or drop one"
            )
    return models


def _resolve(
    word: str, run: RunDir, stages: Sequence[str], served: Mapping[str, ServedModel]
) -> Model:
    if word in served:
        return Model.of(word, served[word])
    if named := _NAMED.fullmatch(word):
        if problem := name_problem(named[1], stages):
            raise UserError(f"--models {word!r}: the name {problem}; give it another one")
        found = _resolve(named[2], run, stages, served)
        return Model(named[1], found.place, found.how)
    if word.startswith(("http://", "https://")):
        return Model.at(word)
    if word in stages:
        folder = run.stage(word) / "model"
        if not (folder / "config.json").is_file():
            raise UserError(
                f"stage {word!r} of run {run.root.name!r} has no model yet; run it first "
                f"(scripts/run_stage.py {word})"
            )
        return Model(word, str(folder))
    path = Path(word).expanduser()
    if not path.exists() and _HUB_ID.fullmatch(word):
        place = cached(word)
        if place is None:  # fetched when its turn comes
            must_answer(f"model {word!r}", "give a checkpoint folder")
        return Model(_slug(word.partition("/")[2]), str(place or word))
    if (path / "model" / "config.json").is_file():
        path = path / "model"
    if not (path / "config.json").is_file():
        known = f"a name in its `models` ({', '.join(served)}), " if served else ""
        raise UserError(
            f"model {word!r} is not a stage of the recipe ({', '.join(stages)}), {known}nor a checkpoint folder "
            "(with config.json), no hub id ORG/NAME and no http://host:port/v1#name"
        )
    whole = path.resolve()
    return Model(_slug(whole.parent.name if whole.name == "model" else whole.name), str(whole))


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "model"
