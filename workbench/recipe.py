"""Recipes: YAML in, one frozen and fully resolved object out.

Order of values: defaults on the fields < the recipe it `extends` < the recipe file < `--set a.b=c`. No
other source.
"""

import json
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

from pydantic import Field, field_validator, model_validator

from workbench import recipe_yaml, registry
from workbench.content import places_read, stages_named
from workbench.errors import UserError, name_problem
from workbench.inherit import extended, with_likes
from workbench.kernels import Choice
from workbench.schema import Section
from workbench.served import ServedModel
from workbench.trackers import TrackerConfig


class ModelSection(Section):
    """The hybrid model that the run builds. Shared by all stages."""

    preset: str = "miniature"
    """Name of a preset of model.presets (miniature, nano2-12b, nano2-9b, ...)."""
    overrides: dict[str, Any] = Field(default_factory=dict)
    """Fields of the preset to change, for example {hidden_size: 192}."""


class ClusterSection(Section):
    """Where stages run."""

    backend: Literal["ray", "local"] = "ray"
    """ray: each stage is a Ray task. local: stages run in this process, one after another."""
    address: str | None = None
    """A running cluster (host:port or auto); null starts Ray on this machine."""
    num_cpus: int | None = Field(None, ge=1, le=4096)
    """Logical CPUs of the Ray started here; null: as many as the machine has."""
    num_gpus: int | None = Field(None, ge=0, le=4096)
    """Logical GPUs of the Ray started here; null: as many as the machine has."""
    object_store_mb: int | None = Field(None, ge=76)
    """Most memory for the object store of the Ray started here, in MB (Ray takes no less than 75), used
    as it fills; null: Ray's own choice, 30% of the machine's. Weights on their way to an engine pass
    through it twice over: where they do not fit, Ray writes them to disk."""
    stop_grace_s: float = Field(60.0, ge=0)
    """How long a stage may take to save after Ctrl-C or SIGTERM, in seconds."""
    stuck_after_s: float | None = Field(1800.0, gt=0)
    """A stage that has written nothing for so many seconds says once where each of its processes stands: on
    the terminal, in its log and on the page of `anneal watch`. Nothing is ended. null: never."""


class ForkConfig(Section):
    """Where a stage begins in place of its first step."""

    checkpoint: str
    """RUN/STAGE, RUN/STAGE@STEP or RUN/STAGE@best: a checkpoint of a stage of the same kind. RUN is the
    name of a run beside this one, or its folder. Without a step: the newest."""
    optimizer: bool = True
    """true: the training goes on from that step with its optimizer, data and generators, and what the
    recipe changes (a learning rate) holds from there on. false: the weights alone; it begins at step 0."""


class StageConfig(Section):
    """What every stage has; kinds add their own fields."""

    SAME_RESULT: ClassVar[frozenset[str]] = frozenset(
        {"cpus", "gpus", "kernels", "keep_checkpoints"}
    )
    """Fields that do not change what a stage makes: resources, what is kept, and when it gives up."""

    kind: str
    """What the stage does: one of the installed kinds."""
    needs: list[str] = Field(default_factory=list)
    """Stages whose outputs this one reads. The first one with a model is the parent."""
    cpus: float = Field(1.0, ge=0)
    """Logical CPUs the stage's Ray task reserves (its actors reserve their own)."""
    gpus: float | None = Field(None, ge=0)
    """GPUs that the stage reserves, sees and uses; 0: none, it computes on the CPU. A share of one is that
    share of its memory. null: where a card is there, the stage and its engines share it (docs/gpu.md)."""
    kernels: Choice = "auto"
    """What a hybrid's layers are computed with on a card. auto: the fused Triton kernels, once each has shown
    on this card that it equals torch's operations and leaks nothing between documents; what fails falls back
    with one line. required, triton: the same, but what fails is refused. torch: torch's operations alone.
    mamba-ssm: that package's kernels for rows of one document, torch for the others. A CPU computes with torch."""
    seed: int | None = Field(None, ge=0, lt=2**63)
    """Overrides the recipe's seed for this stage."""
    fork: ForkConfig | None = None
    """Begin at a checkpoint of another run (`anneal run --fork` sets it); null: at the first step. Only for
    kinds that train. The model of the first need stays the reference, and what is measured `before`."""
    keep_checkpoints: int = Field(0, ge=0)
    """Checkpoints, the newest ones, that stay when the stage is done, to fork from; that of the best
    validation stays with them. 0: none. While it runs there are two at least."""

    @field_validator("fork", mode="before")
    @classmethod
    def _fork_by_name(cls, value: Any) -> Any:
        return {"checkpoint": value} if isinstance(value, str) else value

    @property
    def served(self) -> tuple[str, ...]:
        """Names that may be of the recipe's `models`, which then count as part of the stage."""
        return ()

    @property
    def reserved(self) -> tuple[float, float | None]:
        """CPUs and GPUs that the stage's Ray task reserves; None where that is still to be chosen."""
        return self.cpus, self.gpus

    def to_alternate(self) -> str | None:
        """Keys to change so that the stage never trains while its engine is at work, and leaves its card
        meanwhile; "" where it is so, None where no key does it."""
        return None

    @property
    def layout_free(self) -> bool:
        """Whether what it saves continues in another number of processes: it stays the same stage."""
        return False


class Recipe(Section):
    """A whole recipe."""

    name: str
    """Default name of the run."""
    about: str = ""
    """One paragraph for the report's head."""
    seed: int = Field(0, ge=0, lt=2**63)
    """Seed of everything; a stage derives its own from it and its name."""
    runs_dir: str = "runs"
    """Folder in which run directories are made."""
    model: ModelSection = ModelSection()
    """The hybrid to build."""
    cluster: ClusterSection = ClusterSection()
    """Where stages run."""
    models: dict[str, ServedModel] = Field(default_factory=dict)
    """Name -> a model that a server answers for; evals stages and sweeps take the names."""
    tracking: list[TrackerConfig] = Field(default_factory=list)
    """Trackers beside metrics.jsonl and TensorBoard."""
    stages: dict[str, StageConfig]
    """Stage name -> {kind, needs, ...}."""

    @model_validator(mode="after")
    def _needs_exist(self) -> "Recipe":
        for name, stage in self.stages.items():
            if problem := name_problem(name, _TAKEN):
                raise ValueError(f"stage name {name!r} {problem}; give it another name")
            for need in stage.needs:
                if need not in self.stages:
                    raise ValueError(
                        f"stage {name!r} needs {need!r}, which is not a stage of this recipe; "
                        f"stages: {', '.join(self.stages)}"
                    )
            marked = (v for mark, v in places_read(stage) if mark.what == "stage")
            for read in (one for value in marked for one in stages_named(value)):
                if read not in stage.needs:
                    raise ValueError(
                        f"stage {name!r} reads stage {read!r}, which is not in its needs; "
                        f"add it: needs: [{', '.join([*stage.needs, str(read)])}]"
                    )
        for name, model in self.models.items():
            if problem := name_problem(name, self.stages):
                raise ValueError(f"models.{name}: the name {problem}; give it another one")
            if not model.served_name:
                raise ValueError(
                    f"models.{name}: give the model's name on the server, as `model: NAME`"
                )
        return self

    def resolved(self) -> dict[str, Any]:
        """Everything, defaults included, as JSON-able values (the content of recipe.json)."""
        whole = self.model_dump(mode="json", exclude={"stages"})
        # Serialised one by one: a mapping typed by the base class would lose the kinds' fields.
        whole["stages"] = {n: s.model_dump(mode="json") for n, s in self.stages.items()}
        return whole


# What a run directory holds beside the folders of its stages.
_TAKEN = ("recipe.json", "report.html")


ONE_CORE = {"cpus": 1, "threads": 1}
"""What the parts of a stage made of several have where the recipe says nothing: many of them run side by side."""


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply `--set` overrides. Raises: UserError with one line."""
    raw = extended(Path(path), read_yaml)
    _override(raw, overrides)
    return build(raw)


def build(raw: dict[str, Any]) -> Recipe:
    """Validate a raw mapping, each stage by the schema of its kind."""
    stages = raw.get("stages")
    if not isinstance(stages, dict) or not stages:
        raise UserError("recipe: `stages` must be a mapping of stage name to {kind, needs, ...}")
    whole = _expanded(with_likes(stages))
    made = [str(n) for n, body in whole.items() if isinstance(body, dict) and "kind" in body]
    typed = {str(n): _read_stage(str(n), body, made) for n, body in whole.items()}
    return Recipe.read({**raw, "stages": typed}, where="")


def _expanded(stages: dict[str, Any]) -> dict[str, Any]:
    """With the further stages of kinds that are made of several, each before the stage that needs it."""
    whole: dict[str, Any] = {}
    for name, body in stages.items():
        named = isinstance(body, dict) and str(body.get("kind")) in registry.kinds()
        expand = registry.kind(str(body["kind"])).expand if named else None
        if expand is not None:
            body, more = registry.resolve(expand)(str(name), body)
            # Those that stand there already were made so by an earlier reading, or are the user's own.
            whole |= {key: value for key, value in more.items() if key not in stages}
        whole[name] = body
    return whole


def _read_stage(name: str, body: Any, others: Iterable[str]) -> StageConfig:
    where = f"stages.{name}"
    if not isinstance(body, dict) or "kind" not in body:
        near = get_close_matches(name, [n for n in others if n != name], n=1)
        meant = f" (or did you mean stages.{near[0]}?)" if near else ""
        kinds = ", ".join(registry.kinds())
        raise UserError(f"recipe: {where} must be a mapping with `kind`{meant}; kinds: {kinds}")
    if name == "evals" and body["kind"] != "evals":
        raise UserError("recipe: stages.evals: the name `evals` is for a stage of kind evals")
    config = cast(type[StageConfig], registry.resolve(registry.kind(str(body["kind"])).config))
    return config.read(body, where=where)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a recipe file, as it is written. Raises: UserError."""
    if path.is_dir():
        raise UserError(f"recipe file {str(path)!r} is a folder; name the YAML file in it")
    if not path.is_file():
        raise UserError(f"recipe file {str(path)!r} does not exist; see the recipes/ folder")
    try:
        raw = recipe_yaml.parse(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise UserError(f"recipe {path}: not a text file in UTF-8 ({error.reason})") from None
    except recipe_yaml.NOT_YAML as error:
        raise UserError(f"recipe {path}: not valid YAML: {_words(error)}") from None
    if not isinstance(raw, dict):
        raise UserError(f"recipe {path}: the top level must be a mapping with name and stages")
    return raw


def _words(error: Exception) -> str:
    return " ".join(str(error).split())


def _override(raw: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply `--set` overrides: what a stage is like first, then each to the stages made whole.

    A stage is whole before a key of it is set, so that the rest of what it inherits stays, and a
    stage that is like it stays too: an override changes the one place that it names.
    """
    for override in overrides:
        if _LIKE.match(override):
            apply_override(raw, override)
    for override in overrides:
        if not _LIKE.match(override):
            if isinstance(raw.get("stages"), dict):
                raw["stages"] = with_likes(raw["stages"])
            apply_override(raw, override)


_LIKE = re.compile(r"\s*stages\.[^=]+\.like\s*=")


def override(key: str, text: str) -> str:
    """The `--set` that gives a key this text, whatever YAML would read in it.

    >>> override("runs_dir", "runs/try #2")
    'runs_dir="runs/try #2"'
    """
    return f"{key}={json.dumps(text, ensure_ascii=False)}"


def apply_override(raw: dict[str, Any], override: str) -> None:
    """Apply one `a.b=c`; the value is YAML, so 1e-3, [a, b], null and true mean what they say.

    Mappings and lists on the way are copied first: a YAML alias makes one object of what stands in
    several stages, and only the one that is named may change.
    """
    key, equals, text = override.partition("=")
    if not equals or not key.strip():
        raise UserError(f"--set {override!r:.200}: write it as section.key=value")
    try:
        value = recipe_yaml.parse(text)
    except recipe_yaml.NOT_YAML:
        raise UserError(f"--set {override!r:.200}: the value is not valid YAML; quote it") from None
    rest = key.strip().split(".")
    if not all(rest):
        raise UserError(f"--set {override!r:.200}: write it as section.key=value")
    target: Any = raw
    walked: list[str] = []
    while True:
        part, rest = _next_part(target, rest)
        walked.append(part)
        if not rest:
            target[_index(target, part, walked)] = value
            return
        if isinstance(target, dict) and target.get(part) is None:
            target[part] = _unwritten(raw, walked) if rest[0].isdecimal() else {}
        place = _index(target, part, walked)
        if isinstance(target[place], dict | list):
            target[place] = target[place].copy()
        target = target[place]


def _next_part(target: Any, parts: list[str]) -> tuple[str, list[str]]:
    """The key that the path names next, and what is left. Names may have dots in them."""
    if isinstance(target, dict) and parts[0] not in target:
        for end in range(2, len(parts) + 1):
            if ".".join(parts[:end]) in target:
                return ".".join(parts[:end]), parts[end:]
    return parts[0], parts[1:]


def _unwritten(raw: dict[str, Any], path: list[str]) -> Any:
    """A list that the recipe leaves at its default, before one of its places is set."""
    found: Any = {}
    try:
        found = build(raw).resolved()
        for part in path:
            found = found[part]
    except (UserError, KeyError, TypeError):
        return {}
    return found if isinstance(found, list) else {}


def _index(target: Any, part: str, path: list[str]) -> Any:
    if isinstance(target, dict):
        return part
    if isinstance(target, list) and part.isdecimal() and int(part) < len(target):
        return int(part)
    raise UserError(f"--set {'.'.join(path):.200}: there is no such place in the recipe")
