"""Models to evaluate: a stage of the run, a checkpoint folder, or a served model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from workbench.errors import UserError
from workbench.rundir import RunDir


@dataclass(frozen=True)
class Model:
    """name: its folder under evals/. place: a checkpoint folder or an endpoint's address."""

    name: str
    place: str

    @property
    def served(self) -> bool:
        """Whether it is behind an endpoint."""
        return self.place.startswith(("http://", "https://"))


def resolve_models(words: Sequence[str], run: RunDir, stages: Sequence[str]) -> list[Model]:
    """Models by stage name, folder or `http://host/v1#name`.

    Raises: UserError where one is none of these, has no model yet, or two have the same name.
    """
    models = [_resolve(word, run, stages) for word in words]
    names = [model.name for model in models]
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"two models are called {name!r}; rename one folder, or drop one")
    return models


def _resolve(word: str, run: RunDir, stages: Sequence[str]) -> Model:
    if word.startswith(("http://", "https://")):
        return Model(_slug(word.partition("#")[2] or word), word)
    if word in stages:
        folder = run.stage(word) / "model"
        if not (folder / "config.json").is_file():
            raise UserError(
                f"stage {word!r} of run {run.root.name!r} has no model yet; run it first "
                f"(scripts/run_stage.py {word})"
            )
        return Model(word, str(folder))
    path = Path(word)
    if (path / "model" / "config.json").is_file():
        path = path / "model"
    if not (path / "config.json").is_file():
        raise UserError(
            f"model {word!r} is no stage of the recipe ({', '.join(stages)}), no checkpoint folder "
            "(with config.json) and no http://host:port/v1#name"
        )
    whole = path.resolve()
    return Model(_slug(whole.parent.name if whole.name == "model" else whole.name), str(whole))


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-.") or "model"
