"""Recipe section of the stage kind `curate`. Imports no torch and reads no data."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from data_mix.config import HubSource, JsonlSource, ParquetSource, ShardsSource
from data_mix.data_stage import DataStageConfig
from data_mix.quality.config import ClassifierConfig, HubClassifierConfig
from data_mix.shard_columns import CONVERSATION, Columns, needs_text
from data_mix.where import Condition, problem_of
from engine.judge_client import JudgeConfig
from workbench.content import Reads
from workbench.errors import unknown_name
from workbench.schema import Section


class WarcSource(Section):
    """The HTML responses of a crawl's WARC files."""

    type: Annotated[Literal["warc"], Reads("package", "FastWARC")]
    path: Annotated[str, Reads("files")]
    """A file, or a glob such as crawl/*.warc.gz; relative to the folder the command is run in."""
    most_bytes: int = Field(10 * 2**20, ge=1)
    """Longer pages are removed, and counted."""
    from_debian: bool = False
    """Make the file, where there is none, of 300 pages of Debian's documentation packages
    (scripts/debian_warc.py)."""


class FilesSource(Section):
    """Local text files, a row each: code, licences, notes."""

    type: Literal["files"]
    path: Annotated[str, Reads("files")]
    """A file, or a glob such as src/**/*.py; relative to the folder the command is run in."""
    most_bytes: int = Field(2**20, ge=1)
    """Longer files are removed, and counted."""


InputConfig = Annotated[
    WarcSource | FilesSource | JsonlSource | ParquetSource | HubSource | ShardsSource,
    Field(discriminator="type"),
]


class StepConfig(Section):
    """One step of `curate`. A class of its own for each type; `open` names the code."""

    open: ClassVar[str]
    """"package.module:name" of `(StepConfig, name, Job) -> Step` (data_mix.curate.step)."""

    prepare: ClassVar[str | None] = None
    """"package.module:name" of `(StepConfig, name, stage's folder) -> None`, called once before workers are
    started: what they all read is written under the folder's `checkpoints`."""

    def columns(self, before: Columns) -> Columns:
        """The columns after this step. Raises: ValueError where it needs one that is not there."""
        return before


class LengthStep(StepConfig):
    """Removes texts that are too short or too long."""

    open: ClassVar[str] = "data_mix.curate.steps.length:Length"
    type: Literal["length"]
    least: int = Field(1, ge=0)
    """Fewest characters."""
    most: int | None = Field(None, ge=1)
    """Most characters; null: any number."""


class EquationsStep(StepConfig):
    """Puts TeX in place of every notation of equations in `html`, before any renderer runs, and lists it in
    the column `equations`. Each later step that changes the text is then held to it."""

    open: ClassVar[str] = "data_mix.curate.steps.equations:Equations"
    type: Literal["equations"]
    bare: Literal["pandoc", "leave"] = "pandoc"
    """MathML without a TeX annotation. pandoc: it writes the TeX. leave: the renderer's affair."""
    least: int = Field(0, ge=0)
    """Pages with fewer equations are removed."""

    def columns(self, before: Columns) -> Columns:
        """See StepConfig."""
        needs_text(before, what="html")
        return {**before, "equations": "json"}


class HtmlStep(StepConfig):
    """Renders `html` as plain `text`."""

    open: ClassVar[str] = "data_mix.curate.steps.html:Html"
    type: Literal["html"]
    by: Literal["lynx", "resiliparse"] = "lynx"
    """lynx: the whole page as a terminal shows it [paper]. resiliparse: the main content, ten times as
    fast."""
    min_recall: float = Field(0.95, ge=0, le=1)
    """With resiliparse: a page whose main content keeps a smaller share of its equations is taken whole."""
    limit_s: float = Field(60.0, gt=0)
    """Seconds that lynx may take for a page; beyond, there is no decision on it."""

    def columns(self, before: Columns) -> Columns:
        """See StepConfig."""
        needs_text(before, what="html")
        return {**{k: v for k, v in before.items() if k != "html"}, "text": "text"}


class FixTextStep(StepConfig):
    """Mends wrongly decoded text, by ftfy."""

    open: ClassVar[str] = "data_mix.curate.steps.fix_text:FixText"
    type: Annotated[Literal["fix_text"], Reads("package", "ftfy")]

    def columns(self, before: Columns) -> Columns:
        """See StepConfig."""
        needs_text(before)
        return before


LANGUAGES = (
    "ar", "da", "de", "en", "es", "fr", "it", "ja", "ko", "nl", "pl", "pt", "ru", "sv", "th", "zh",
)  # fmt: skip
"""English and the paper's fifteen."""


class LanguageStep(StepConfig):
    """Says in which language a text is (column `language`), and keeps some, by py3langid."""

    open: ClassVar[str] = "data_mix.curate.steps.language:Language"
    type: Annotated[Literal["language"], Reads("package", "py3langid")]
    among: tuple[str, ...] = LANGUAGES
    """The languages to choose from, by their two letters; fewer are told apart better."""
    keep: tuple[str, ...] = ()
    """Texts in other languages are removed; empty: none is."""

    @model_validator(mode="after")
    def _chosen_from(self) -> "LanguageStep":
        if wrong := [name for name in self.keep if name not in self.among]:
            raise ValueError(str(unknown_name("language to keep", wrong[0], self.among)))
        return self

    def columns(self, before: Columns) -> Columns:
        """See StepConfig."""
        needs_text(before)
        return {**before, "language": "text"}


PERMISSIVE = (
    "0BSD", "Apache-2.0", "BlueOak-1.0.0", "BSD-1-Clause", "BSD-2-Clause", "BSD-2-Clause-Patent", "BSD-3-Clause",
    "BSD-3-Clause-Clear", "BSL-1.0", "CC0-1.0", "HPND", "ISC", "MIT", "MIT-0", "MIT-CMU", "NCSA", "PostgreSQL",
    "PSF-2.0", "Python-2.0", "Python-2.0.1", "Unlicense", "UPL-1.0", "X11", "Zlib",
)  # fmt: skip
"""Licences that ask for no more than to be named. None asks that what is made be given away."""


class LicenceStep(StepConfig):
    """Removes source files whose licence is not on a list, or cannot be told (column `license`)."""

    open: ClassVar[str] = "data_mix.curate.steps.licence:Licence"
    type: Literal["licence"]
    texts: Annotated[str, Reads("files")]
    """Texts of licences: `spdx-full.json` of the npm package spdx-license-list, or a glob of files ID.txt."""
    allow: tuple[str, ...] = PERMISSIVE
    """SPDX identifiers that are allowed; each licence of a file must be. The default asks for no more than
    to be named."""

    def columns(self, before: Columns) -> Columns:
        """See StepConfig."""
        needs_text(before)
        needs_text(before, what="path")
        return {**before, "license": "text"}


class DecontaminateStep(StepConfig):
    """Removes texts that hold a question of a benchmark, or its answer."""

    open: ClassVar[str] = "data_mix.curate.steps.decontaminate:Decontaminate"
    prepare: ClassVar[str | None] = "data_mix.curate.steps.decontaminate:prepare"
    type: Literal["decontaminate"]
    against: list[str] = Field(min_length=1)
    """Benchmarks by name (`python scripts/sweep.py --list`), or `all-here`: those whose data is on this
    machine."""
    ngram_words: int = Field(13, ge=3)
    """A text that shares this many words in a row with a question or a textual answer is removed. A shorter
    question counts as a whole where it has 8 words."""
    judge: JudgeConfig | None = None
    """Another model that is shown the likest questions; null: shared words alone decide."""
    candidates: int = Field(5, ge=1)
    """With a judge: most questions that a text is compared with."""
    likeness: float = Field(0.4, gt=0, lt=1)
    """With a judge: the least likeness (cosine of character runs) of a question that is put to it."""
    data: Annotated[str, Reads("files")] = "data/evals"
    """Folder with the data of benchmarks that no installed package has."""


class ScoreStep(StepConfig):
    """Writes a score of `text` into a column of its name, and removes rows that do not reach it."""

    open: ClassVar[str] = "data_mix.curate.steps.score:Score"
    type: Literal["score"]
    name: str = Field("score", pattern="[a-z][a-z0-9_]*")
    """The column."""
    by: ClassifierConfig | HubClassifierConfig = Field(discriminator="type")
    """A classifier that a stage of kind `quality` trained, or one of Hugging Face."""
    keep: Condition | None = None
    """Which scores stay, such as ">=3" [paper: FineMath 3+]; null: all."""

    @model_validator(mode="after")
    def _can_be_meant(self) -> "ScoreStep":
        if self.keep is not None and (problem := problem_of(self.keep)):
            raise ValueError(f"keep: {self.keep!r} {problem}")
        return self

    def columns(self, before: Columns) -> Columns:
        """See StepConfig."""
        needs_text(before)
        return {**before, self.name: "number"}


Step = Annotated[
    LengthStep
    | EquationsStep
    | HtmlStep
    | FixTextStep
    | LanguageStep
    | LicenceStep
    | DecontaminateStep
    | ScoreStep,
    Field(discriminator="type"),
]


class CurateConfig(DataStageConfig):
    """Stage kind `curate`: rows of one input, each through the steps in their order."""

    kind: Literal["curate"]
    input: InputConfig
    """Where the rows come from."""
    steps: list[Step] = Field(min_length=1)
    """What is done to each row, in order."""

    def names(self) -> list[str]:
        """What each step is called in figures: its type, numbered where it stands more than once."""
        types: list[str] = [step.type for step in self.steps]
        return [
            kind if types.count(kind) == 1 else f"{kind}-{types[: place + 1].count(kind)}"
            for place, kind in enumerate(types)
        ]


def input_columns(source: InputConfig) -> Columns | None:
    """The columns of an input's rows; None for another stage's, which are known once it has run."""
    if isinstance(source, ShardsSource):
        return None
    if isinstance(source, WarcSource):
        return {"id": "text", "url": "text", "html": "text", "source": "text"}
    if isinstance(source, FilesSource):
        return {"id": "text", "path": "text", "text": "text"}
    if source.form == "text":
        return {"id": "text", "text": "text", "source": "text", "meta": "json"}
    return dict(CONVERSATION)


def columns_after(config: CurateConfig, before: Columns) -> Columns:
    """The columns of the stage's rows. Raises: ValueError naming the step that cannot be meant."""
    for name, step in zip(config.names(), config.steps, strict=True):
        try:
            before = step.columns(before)
        except ValueError as error:
            raise ValueError(f"step {name!r}: {error}") from None
    return before
