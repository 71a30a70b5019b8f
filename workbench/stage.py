"""What a stage is given and what it must leave: the seam between the pipeline and its stages."""

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workbench.content import bound
from workbench.errors import StopRequested, UserError
from workbench.load import AskedLoad, DataLoad, GenerationLoad, ScoringLoad, TrainingLoad
from workbench.recipe import Recipe, StageConfig
from workbench.results import check_outputs
from workbench.rundir import RunDir, read_json

if TYPE_CHECKING:
    from workbench.progress import ProgressFile
    from workbench.trackers import Trackers
    from workbench.tracking import MetricsWriter


@dataclass(frozen=True)
class StagePlan:
    """What a stage is going to cost, known before any of it runs.

    tokens: trained or generated. disk_bytes: what its checkpoints need at the same time.
    loads: what scripts/plan.py works out memory, FLOPs and time from. data: what it lists of data stages.
    """

    lines: tuple[str, ...] = ()
    steps: int | None = None
    tokens: int | None = None
    disk_bytes: int = 0
    loads: tuple[TrainingLoad | GenerationLoad | ScoringLoad, ...] = ()
    data: tuple[DataLoad | AskedLoad, ...] = ()


@dataclass
class StageContext:
    """Everything a stage's `run` may use."""

    name: str
    config: Any
    """The stage's resolved configuration, of its kind's class; folders stand where it names stages to read."""
    recipe: Recipe
    run: RunDir
    inputs: dict[str, Path]
    """Stage needed -> its folder (a model is at FOLDER/"model")."""
    outputs: dict[str, Any] = field(default_factory=dict)
    """Goes into the manifest. It is read here and written by `keep` and `note`."""
    fresh: bool = False
    """Whether nothing of an earlier result may be taken over."""
    _stop_seen: float = 0.0
    _progress: "ProgressFile | None" = None
    _metrics: "MetricsWriter | None" = None
    _trackers: "Trackers | None" = None

    def __post_init__(self) -> None:
        if isinstance(self.config, StageConfig):
            self.config = bound(self.config, self.inputs)

    @property
    def stage_dir(self) -> Path:
        """The stage's folder in the run directory."""
        return self.run.stage(self.name)

    @property
    def seed(self) -> int:
        """The stage's own seed, derived from the recipe's and the stage's name."""
        return stage_seed(self.recipe, self.name)

    @property
    def parent_model(self) -> Path:
        """The model folder of the first needed stage that has one."""
        for folder in self.inputs.values():
            if (folder / "model" / "config.json").is_file():
                read_json(folder / "model" / "config.json")  # half a file is found here
                return folder / "model"
        raise UserError(
            f"stage {self.name!r} needs a stage that makes a model; its needs: "
            f"{', '.join(self.inputs) or 'none'}"
        )

    def keep(self, **found: Any) -> None:
        """Put what the stage found into the outputs: fields of its kind's result, as JSON-able values.

        They are in the manifest when the stage ends. Raises: TypeError where the kind has no such field.
        """
        check_outputs(self.config.kind, found)
        self.outputs |= found

    def note(self, **found: Any) -> None:
        """As `keep`, and put all outputs into the manifest now.

        Called when a part ends and before the next one begins: a kill then loses neither the part nor
        its account.
        """
        self.keep(**found)
        manifest = self.run.manifest(self.name)
        if manifest is not None:
            manifest.outputs = self.outputs
            self.run.write_manifest(manifest)

    def warn(self, *lines: str) -> None:
        """Note warnings for the report, each once, behind those that are there."""
        seen = self.outputs.get("warnings")
        told = list(dict.fromkeys([*(seen or []), *lines]))
        if told != seen:  # a step that warns again must not write the manifest again
            self.note(warnings=told)

    def progress(
        self,
        *,
        step: int | None = None,
        total: int | None = None,
        message: str = "",
        tokens: int | None = None,
    ) -> None:
        """Tell the driver how far the stage is. Cheap: written at most once a second."""
        if self._progress is None:
            from workbench.progress import ProgressFile  # noqa: PLC0415 - not needed by plans

            self._progress = ProgressFile(self.stage_dir / "progress.json", stage=self.name)
        self._progress.update(step=step, total=total, message=message, tokens=tokens)

    @property
    def metrics(self) -> "MetricsWriter":
        """The writer of the stage's metrics.jsonl and TensorBoard events."""
        if self._metrics is None:
            from workbench.tracking import MetricsWriter  # noqa: PLC0415 - not needed by plans

            self._metrics = MetricsWriter(self.stage_dir, self._own_trackers())
        return self._metrics

    def _own_trackers(self) -> "Trackers | None":
        if not self.recipe.tracking:
            return None
        from workbench.trackers import Trackers  # noqa: PLC0415 - not needed by plans

        facts = {"run": self.run.root.name, "stage": self.name, "kind": self.config.kind}
        facts |= {"recipe": self.recipe.name, "seed": self.seed}
        self._trackers = Trackers(self.recipe.tracking, self.stage_dir, facts)
        return self._trackers

    def log_metrics(
        self, step: int, values: Mapping[str, float], *, tokens: int | None = None
    ) -> None:
        """Append one line to metrics.jsonl."""
        self.metrics.log(step, dict(values), tokens=tokens)

    def should_stop(self) -> bool:
        """True once Ctrl-C or SIGTERM reached the driver. Save, then call `stop()`."""
        now = time.monotonic()
        if now - self._stop_seen < 0.2:  # the file may lie on a network disk
            return False
        self._stop_seen = now
        return self.run.stop_file.exists()

    def stop(self) -> None:
        """Leave the stage; it is left resumable."""
        raise StopRequested(f"stage {self.name!r} stopped as asked")

    def close(self) -> None:
        """Close what the context opened."""
        if self._metrics is not None:
            self._metrics.close()
        if self._trackers is not None and self._trackers.lines:
            self.warn(*self._trackers.lines)


def stage_seed(recipe: Recipe, stage: str) -> int:
    """A 31-bit seed of its own for each stage, stable across runs and machines."""
    config: StageConfig = recipe.stages[stage]
    if config.seed is not None:
        return config.seed
    text = f"{recipe.seed}/{stage}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:4], "big") >> 1
