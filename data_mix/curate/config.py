"""Recipe section of the stage kind `curate`. Imports no torch and reads no data."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from data_mix.columns import ColumnsConfig
from data_mix.config import CleanConfig, HubSource, JsonlSource, ParquetSource, ShardsSource
from data_mix.curate.code_text import languages
from data_mix.data_stage import DataStageConfig
from data_mix.quality.config import ClassifierConfig, HubClassifierConfig
from data_mix.shard_columns import CONVERSATION, Columns, needs_text
from data_mix.where import Condition, problem_of
from engine.endpoint import parts_of
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
    from_debian: bool | dict[str, int] = False
    """Make the file, where there is none, of 300 pages of Debian's documentation packages
    (scripts/debian_warc.py), or of so many of each package, e.g. {python-mpmath-doc: 36}."""


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
    among: tuple[str, ...] = Field(LANGUAGES, min_length=1)
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
    "0BSD", "Apache-2.0", "bcrypt-Solar-Designer", "BlueOak-1.0.0", "BSD-1-Clause", "BSD-2-Clause",
    "BSD-2-Clause-NetBSD", "BSD-2-Clause-Patent", "BSD-2-Clause-Views", "BSD-3-Clause", "BSD-3-Clause-Clear",
    "BSD-3-Clause-HP", "BSD-3-Clause-Tso", "BSD-Source-Code", "BSL-1.0", "CC0-1.0", "Clips", "Cornell-Lossless-JPEG",
    "curl", "dtoa", "HPND", "HPND-doc", "HPND-Markus-Kuhn", "HPND-MIT-disclaimer", "HPND-Pbmplus", "HPND-UC", "ISC",
    "ISC-Veillard", "Linux-OpenIB", "Mackerras-3-Clause", "MIT", "MIT-0", "MIT-CMU", "MIT-Modern-Variant",
    "MIT-testregex", "NCSA", "pkgconf", "PostgreSQL", "PSF-2.0", "Python-2.0", "Python-2.0.1", "Unlicense", "UPL-1.0",
    "X11", "X11-swapped", "Zlib",
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


Limits = tuple[float | None, float | None]
"""The least and the most that is kept; null at either side: no limit."""


class TextLimits(Section):
    """What a source file's text must be like. Shares are of all characters unless said otherwise."""

    characters: Limits = (50, None)
    """Its length [OpenCoder]."""
    lines: Limits = (10, 100_000)
    """Its lines [OpenCoder]."""
    longest_line: Limits = (None, 1000)
    """Characters of its longest line [StarCoder]."""
    mean_line: Limits = (5, 100)
    """Mean characters of a line [most: StarCoder; least: OpenCoder]."""
    words: Limits = (30, None)
    """Its words [OpenCoder]."""
    mean_word: Limits = (2, 10)
    """Mean characters of a word [OpenCoder]."""
    alphabetic: Limits = (0.5, None)
    """Share of letters, of all but blanks [OpenCoder; StarCoder: 0.25]."""
    digits: Limits = (None, 0.2)
    """Share of digits, of all but blanks [OpenCoder]."""
    blanks: Limits = (None, 0.5)
    """Share of blanks [OpenCoder]."""
    replaced: Limits = (None, 0.01)
    """Share of characters that could not be decoded [OpenCoder]."""
    encoded: Limits = (None, 0.5)
    """Share of base64, hexadecimal and escapes; a run of more than 1,024 counts as all [The Stack v2]."""
    repeated_runs: Limits = (None, 0.6)
    """Share of runs of ten words that stand more than once [OpenCoder: by characters]."""


class CodeLimits(TextLimits):
    """The limits of code. Comments and code are told apart by Pygments."""

    comments: Limits = (None, 0.8)
    """Share of comments [OpenCoder]."""
    repeated_lines: Limits = (None, 0.7)
    """Share of lines of code that stand more than once [OpenCoder]."""
    strings: Limits = (None, 0.6)
    """Share of the code that is in quotes [OpenCoder]."""
    long_string_lines: Limits = (None, 0.2)
    """Lines in quotes with more than 20 words, a line of code [OpenCoder]."""
    long_words: Limits = (None, 0.4)
    """Share of the code in words of more than 20 characters in quotes, but for addresses [OpenCoder]."""
    hexadecimal: Limits = (None, 0.4)
    """Share of the code that is hexadecimal numbers [OpenCoder]."""
    to_do_lines: Limits = (None, 0.01)
    """Lines of comments with `todo`, `fixme` or `your code here`, a line [OpenCoder]."""
    assert_lines: Limits = (None, 0.4)
    """Share of lines of code with `assert` [OpenCoder]."""


class PythonLimits(Section):
    """What Python must be like besides, a line of code, by its syntax tree [OpenCoder's limits]."""

    functions: Limits = (None, 0.2)
    """Functions."""
    simple_functions: Limits = (None, 0.1)
    """Functions that only return."""
    pass_lines: Limits = (None, 0.05)
    """`pass`."""
    import_lines: Limits = (None, 0.3)
    """Imports."""
    print_lines: Limits = (None, 0.4)
    """Calls of `print`."""
    variables: Limits = (1, None)
    """Names that are given a value, in all."""


class DataLimits(TextLimits):
    """The limits of JSON, YAML, XML and tables."""

    characters: Limits = (50, 5000)
    """Its length [StarCoder]."""
    unique_words: Limits = (0.4, None)
    """Share of words that are different [OpenCoder]."""


class PageLimits(TextLimits):
    """The limits of HTML."""

    shown: Limits = (0.2, None)
    """Share of the text that a reader sees [StarCoder]."""
    shown_characters: Limits = (100, None)
    """Its length [StarCoder]."""


class CodeStep(StepConfig):
    """Removes source files that teach little: generated, mostly data, stubs, broken (column
    `programming_language`). The limits are those published for OpenCoder (arXiv 2411.04905) and StarCoder
    (2305.06161); the first that a file breaks is its reason."""

    open: ClassVar[str] = "data_mix.curate.steps.code:Code"
    type: Annotated[Literal["code"], Reads("package", "Pygments")]
    languages: tuple[str, ...] = ()
    """Keep these alone, as Pygments names them; empty: all that a file's name can tell."""
    generated: Literal["remove", "keep"] = "remove"
    """Files whose first 40 lines say that a generator wrote them, and files of package managers' locks."""
    unparsed: Literal["remove", "keep"] = "remove"
    """Python that is not Python 3."""
    code: CodeLimits = CodeLimits()
    """Limits of code."""
    python: PythonLimits = PythonLimits()
    """Further limits of Python."""
    data: DataLimits = DataLimits()
    """Limits of data."""
    html: PageLimits = PageLimits()
    """Limits of HTML."""

    @model_validator(mode="after")
    def _known(self) -> "CodeStep":
        known = languages()
        if wrong := [name for name in self.languages if name not in known]:
            raise ValueError(str(unknown_name("programming language", wrong[0], known)))
        return self

    def columns(self, before: Columns) -> Columns:
        """See StepConfig."""
        needs_text(before)
        needs_text(before, what="path")
        return {**before, "programming_language": "text"}


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
    likeness: float = Field(0.1, gt=0, lt=1)
    """With a judge: the least likeness (cosine of character runs) of a question that is put to it. At 0.1, 86
    to 100% of rephrased questions are, and about half of all innocent texts (docs/data.md)."""
    data: Annotated[str, Reads("files")] = "data/evals"
    """Folder with the data of benchmarks that no installed package has."""


class Rewriter(Section):
    """The model that rewrites, and how it is asked."""

    endpoint: str
    """Any OpenAI-compatible server, as http://host:port/v1#model. A checkpoint or a stage's model writes in
    `synthesize`, task `rephrase` with style `clean`, by the same gate; or `anneal serve` makes it a server."""
    api_key_env: str = "OPENAI_API_KEY"
    """The environment variable with the server's key; unset: none is sent."""
    temperature: float = Field(0.3, ge=0)
    """Sampling temperature; each attempt has a seed of its own."""
    max_tokens: int = Field(16_384, ge=1)
    """Longest reply, twice a piece; one that is cut decides nothing."""
    timeout_s: float = Field(600.0, gt=0)
    """How long one request may take, in seconds."""
    retries: int = Field(4, ge=0)
    """How often a request is repeated after a lost connection, a timeout, or status 408, 409, 429 or 5xx."""
    parallel: int = Field(64, ge=1)
    """Most requests that a worker has open at once; so many rows are taken at once, 64 at least."""

    @field_validator("endpoint")
    @classmethod
    def _an_address(cls, value: str) -> str:
        parts_of(value)
        return value


class RewriteStep(StepConfig):
    """A model cleans `text`: it leaves out the page's frame, and changes nothing else [paper: Phi-4 on
    pages of mathematics]. A gate (data_mix/faithful.py) lets through what is made of the text's own sentences, whole
    and in order, with every equation and what it knows for code, formulas, lines with numbers and sentences; its holes
    are in docs/data.md."""

    open: ClassVar[str] = "data_mix.curate.steps.rewrite:Rewrite"
    prepare: ClassVar[str | None] = "data_mix.curate.steps.rewrite:prepare"
    type: Literal["rewrite"]
    by: Rewriter
    """The model."""
    chunk_tokens: int = Field(8000, ge=64)
    """Longest piece that is asked about at once, counted as four characters a token; cut between paragraphs."""
    attempts: int = Field(3, ge=1)
    """Most whole replies for a piece in one go, until one is faithful; so many must be unfaithful to decide."""
    otherwise: Literal["restore", "remove"] = "restore"
    """Where no reply is faithful. restore: the piece stays as it was, and is counted. remove: the row goes."""
    max_dropped: float = Field(0.0, ge=0, lt=1)
    """Share of the words in sentences that may go beside the frame: comments and the like. Never equations,
    formulas, code, or lines with numbers that are no sentences."""
    reply_share: float = Field(0.7, gt=0)
    """For the plan: a reply's tokens, of its piece's."""

    def columns(self, before: Columns) -> Columns:
        """See StepConfig."""
        needs_text(before)
        return before


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
    | CodeStep
    | DecontaminateStep
    | RewriteStep
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

    @model_validator(mode="after")
    def _input_is_read(self) -> "CurateConfig":
        source = self.input
        if isinstance(source, JsonlSource | ParquetSource | HubSource):
            if source.clean != CleanConfig():
                raise ValueError(
                    "input: clean is for sources of a blend; here write steps (length, decontaminate), and a "
                    "stage of kind dedup after this one"
                )
        elif isinstance(source, ShardsSource):
            for name in ColumnsConfig.model_fields:
                default = type(source).model_fields[name].get_default(call_default_factory=True)
                if getattr(source, name) != default:
                    raise ValueError(
                        f"input: {name} is not read: curate takes the rows of a stage as they are; leave it out"
                    )
        return self

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
