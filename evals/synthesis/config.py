"""Recipe sections of the stage kind `synthesize`. Imports no torch."""

from pathlib import Path
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from data_mix.config import SourceConfig
from engine.config import EngineConfig
from environments.config import TasksConfig
from workbench.content import Reads
from workbench.recipe import StageConfig
from workbench.schema import Section


class Writer(Section):
    """A model that is asked: a served one, a stage's, or a checkpoint's. Just one of the three."""

    endpoint: str | None = None
    """Any OpenAI-compatible server, as http://host:port/v1#model. Another checkpoint behind the same
    address and name is taken for the same model: its replies are not asked again."""
    stage: Annotated[str | None, Reads("stage")] = None
    """A stage in `needs` with a model; answered by an engine of ours."""
    checkpoint: Annotated[str | None, Reads("checkpoint")] = None
    """A folder with a checkpoint, or a hub id (which is planned and priced; download it to run)."""
    revision: str | None = None
    """Of a hub id: a commit; null: the newest."""
    thinking: bool = False
    """Whether it is asked for a trace, and replies are read as beginning with one where they do."""
    switch: Literal["auto", "system", "template", "effort", "none"] = "none"
    """With an endpoint: how reasoning is switched, as in `models` (docs/recipes.md). none: nothing is sent,
    and the model reasons as it does by itself."""
    api_key_env: str = "OPENAI_API_KEY"
    """With an endpoint: the environment variable with the server's key."""
    temperature: float = Field(0.7, ge=0)
    """Sampling temperature; judges and checks of a task are asked greedily."""
    top_p: float = Field(0.95, gt=0, le=1)
    """Nucleus."""
    max_tokens: int = Field(1024, ge=1)
    """Longest reply, its trace included. A reply that is cut is sampled anew and never kept."""
    open_requests: int = Field(64, ge=1)
    """Requests to an endpoint at the same time."""
    engine: EngineConfig = EngineConfig()
    """How vLLM is run, for a stage's model or a checkpoint."""

    @model_validator(mode="after")
    def _one_place(self) -> "Writer":
        given = [k for k in ("endpoint", "stage", "checkpoint") if getattr(self, k) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a model is one of endpoint, stage and checkpoint; got {', '.join(given) or 'none'}"
            )
        if self.endpoint is not None:
            from engine.endpoint import parts_of  # noqa: PLC0415 - a few lines of one module

            parts_of(self.endpoint)
        return self

    @property
    def place(self) -> str:
        """What it is called in messages and rows."""
        if self.stage is not None:  # in a running stage its folder stands in the name's place
            return Path(self.stage).name
        where = self.endpoint or self.checkpoint or ""
        return where.partition("#")[2] or where

    @property
    def served(self) -> bool:
        """Whether it is behind an endpoint."""
        return self.endpoint is not None


class VoteConfig(Section):
    """Answers that are sampled for one question, and the vote that decides which is kept."""

    samples: int = Field(8, ge=1)
    """Answers a question."""
    at_least: int = Field(5, ge=1)
    """Equal answers that it takes; more than any other answer has, in any case."""
    check: Literal["math", "choice"] = "math"
    """Whose equality counts, and the check that is written on the row."""

    @model_validator(mode="after")
    def _possible(self) -> "VoteConfig":
        if self.at_least > self.samples:
            raise ValueError(f"at_least {self.at_least} of {self.samples} samples; ask for fewer")
        return self


class StemTask(Section):
    """New problems after given ones, in rounds, with voted answers [paper 3.5: 3 rounds x 4 models x 3
    prompts]."""

    type: Literal["stem"]
    prompts: tuple[Literal["similar", "harder", "varied"], ...] = ("similar", "harder", "varied")
    """How the new problem is to differ from the one it is written after."""
    rounds: int = Field(1, ge=1)
    """Round 2 writes after the problem of round 1, and so on."""
    answers: VoteConfig = VoteConfig()
    """The vote."""
    choices: int = Field(4, ge=2, le=10)
    """Options a problem, where the check is `choice`."""


class FrSftTask(Section):
    """Fundamental reasoning: new multiple-choice problems of logic, argument and quantity, with a worked
    answer that the majority gave [paper 3.5: seeds LSAT, LogiQA, AQuA-RAT]."""

    type: Literal["fr_sft"]
    rounds: int = Field(1, ge=1)
    """As with stem."""
    answers: VoteConfig = VoteConfig(check="choice")
    """The vote; role `solver` answers, where the recipe names one."""
    choices: int = Field(4, ge=2, le=10)
    """Options a problem."""


class MindTask(Section):
    """A text as a dialogue about it, in seven styles (after MIND, which the paper repeats on
    Nemotron-CC-Math-4+)."""

    type: Literal["mind"]
    styles: tuple[
        Literal["students", "teacher", "professors", "debate", "solving", "layman", "interview"],
        ...,
    ] = ("students", "teacher", "professors", "debate", "solving", "layman", "interview")
    """A dialogue of each for every text."""
    per_text: int | None = Field(None, ge=1)
    """So many of the styles for each text, drawn by its id; null: all."""
    min_words: int = Field(50, ge=1)
    """Shorter dialogues are removed."""
    min_turns: int = Field(4, ge=2)
    """Dialogues of fewer turns are removed."""
    max_copied: float = Field(0.5, gt=0, le=1)
    """Largest share of the dialogue's 8-word runs that may stand in the text."""


class DiverseQaTask(Section):
    """Questions and answers of several forms about a text, appended to it (DiverseQA of Nemotron-CC)."""

    type: Literal["diverse_qa"]
    language: str | None = None
    """ISO 639-1 code of the language to ask and answer in; null: the text's own, not looked at."""
    min_pairs: int = Field(2, ge=1)
    """Fewer usable pairs: removed."""
    max_pairs: int = Field(8, ge=1)
    """More are dropped."""
    grounded: float = Field(0.5, ge=0, le=1)
    """Least share of an answer's numbers and words of four letters and more that stand in the text or the
    question; yes, no and true, false stand anywhere."""


class LongDocumentQaTask(Section):
    """The paper's long-context data (2.5): chunks of a long document, a question on some of them, all
    appended at its end."""

    type: Literal["long_document_qa"]
    chunk_tokens: int = Field(1024, ge=16)
    """Length of a chunk [paper: 1,024], counted as four characters a token."""
    share: float = Field(0.1, gt=0, le=1)
    """Share of the chunks that are asked about [paper: 10%]; at least one."""
    min_tokens: int = Field(32_768, ge=1)
    """Shorter documents are removed [paper: academic documents over 32k tokens]."""
    answerable: bool = False
    """Ours: the answer must be found again with the chunk, and not without it (role `solver`)."""


class AcademicQaTask(Section):
    """Multiple-choice and free questions on a chunk and its nearest neighbours (paper 3.5)."""

    type: Literal["academic_qa"]
    chunk_tokens: int = Field(512, ge=16)
    """Length of a chunk [paper: 512], counted as four characters a token."""
    neighbours: int = Field(3, ge=0)
    """Nearest chunks of all seeds shown beside it [paper: retrieves 250]."""
    embeddings: str | None = None
    """An /v1/embeddings server as http://host:port/v1#model [paper: e5-large]; null: TF-IDF of hashed
    words, here."""
    choices: int = Field(4, ge=2, le=10)
    """Options of the multiple-choice question."""
    closed_book: bool = False
    """Remove questions that role `solver` answers right without the chunk, too."""


class CodeQaTask(Section):
    """A problem after a piece of code, and its solution (paper 3.5: 11 languages, AST heuristics)."""

    type: Literal["code_qa"]
    language: str = "python"
    """What the fenced block of the solution is called. Python must parse, and define something."""
    tests: bool = False
    """Python: the writer also gives assertions, and the solution must pass them in the sandbox."""


class RephraseTask(Section):
    """A text in other words (paper 3.3: low- and high-quality crawl by Qwen3-30B-A3B)."""

    type: Literal["rephrase"]
    style: Literal["wikipedia", "plain", "knowledge", "list", "clean"] = "wikipedia"
    """How it is to be written. clean: as it is, less menus, notices and the rest of a page's frame; the
    paper's Phi-4 step on pages of mathematics. Its max_copied is 1."""
    min_ratio: float = Field(0.3, gt=0)
    """Shortest allowed, in characters of the text's."""
    max_ratio: float = Field(2.0, gt=0)
    """Longest allowed."""
    max_copied: float = Field(0.7, gt=0, le=1)
    """Largest share of its 8-word runs that may stand in the text."""


class TranslateTask(Section):
    """Line by line, each line in brackets of its own number (paper 4.1); code, links and equations
    stay. A row with one bad line is removed as untranslated."""

    type: Literal["translate"]
    to: str
    """ISO 639-1 code of the language to translate into."""
    origin: str = "en"
    """That of the seeds."""
    lines_at_once: int = Field(32, ge=1)
    """Lines in one request."""
    ratio: tuple[float, float] = (0.25, 4.0)
    """Shortest and longest a line may be, in characters of the original; lines of fewer than 20 are not
    measured."""
    language_from: int = Field(40, ge=1)
    """Letters that a line must have for its language to be told; together a row's lines are always
    told."""


class ToolDialogueTask(Section):
    """Three roles over a real environment: `user` speaks, the writer calls tools, the environment answers.
    Kept where the final state is the task's (paper 4.1: rule-based verification, successful
    trajectories only)."""

    type: Literal["tool_dialogue"]
    tasks: TasksConfig
    """The environment and its tasks; they are the seeds."""
    personas: tuple[str, ...] = ()
    """Who the user is, drawn for each task; none: nobody in particular."""
    max_replies: int = Field(12, ge=1)
    """Most replies of the assistant; a dialogue that needs more is removed."""


class When2CallTask(Section):
    """Negatives of tool calling: the tool that a request needs is taken away, or an argument is. The
    reply must call nothing, and decline or ask (after When2Call)."""

    type: Literal["when2call"]
    withhold: tuple[Literal["tool", "argument"], ...] = ("tool", "argument")
    """What is taken away; a row of each for every seed that has it. Seeds: conversations whose reply
    calls."""


class SafetyTask(Section):
    """Two steps (paper 4.1): a reply under a prompt that says how to be safe, then a guard's verdict. The
    row has neither."""

    type: Literal["safety"]
    samples: int = Field(1, ge=1)
    """Replies a prompt; the first that the guard calls safe is kept. Role `guard` judges."""
    refuse: bool = False
    """Seeds are requests that must be refused: the reply must also pass the refusal check."""


class TracesTask(Section):
    """Reasoning traces for SFT: replies to prompts with a check, kept where they pass it (paper 4.1)."""

    type: Literal["traces"]
    samples: int = Field(4, ge=1)
    """Replies a prompt."""
    keep: int = Field(1, ge=1)
    """Most replies kept of a prompt: those that pass, the shortest first."""
    need_trace: bool = False
    """Remove replies without a trace."""


class RubricTask(Section):
    """Ratings of texts from 0 to 5 by a model, from which a stage of kind `quality` learns."""

    type: Literal["rubric"]
    criteria: str = (
        "how much a student of the subject learns from it: whether it explains, is right and whole"
    )
    """What is rated, in words that go on "Rate the text by ..."."""
    most_characters: int = Field(6000, ge=100)
    """A longer text is shown up to there; the row has all of it."""


TaskConfig = Annotated[
    StemTask
    | FrSftTask
    | MindTask
    | DiverseQaTask
    | LongDocumentQaTask
    | AcademicQaTask
    | CodeQaTask
    | RephraseTask
    | TranslateTask
    | ToolDialogueTask
    | When2CallTask
    | SafetyTask
    | TracesTask
    | RubricTask,
    Field(discriminator="type"),
]


class SynthesizeConfig(StageConfig):
    """Stage kind `synthesize`: seeds in, rows that models wrote and gates let through out."""

    SAME_RESULT: ClassVar[frozenset[str]] = StageConfig.SAME_RESULT | {
        "max_failed",
        "row_tokens",
        "seed_tokens",
    }

    kind: Literal["synthesize"]
    task: TaskConfig
    """What is made of a seed, and by which gates."""
    seeds: SourceConfig | None = None
    """Where the seeds come from; null only for tool_dialogue, whose tasks are the seeds."""
    num_seeds: int | None = Field(None, ge=1)
    """How many of them; null: all that the source has."""
    models: list[Writer] = Field(min_length=1)
    """The writers. Every seed goes to each."""
    roles: dict[Literal["solver", "guard", "user"], Writer] = Field(default_factory=dict)
    """Who plays another part of the task; a part that is not named is the writer's own."""
    seeds_per_shard: int = Field(256, ge=1)
    """Seeds of one file of output. Those of one shard are asked at once."""
    attempts: int = Field(2, ge=1)
    """How often a reply that was cut, or that a server refused, is asked for in one go."""
    max_failed: float = Field(0.01, ge=0, le=1)
    """Share of rows that may have failed (not: been removed) for the stage to be done. The same command
    asks for them again."""
    keep_removed: float = Field(0.05, ge=0, le=1)
    """Share of removed rows that are written down, with what the gate saw."""
    row_tokens: int | None = Field(None, ge=1)
    """For the plan: mean tokens of a reply, measured; null: max_tokens, the most there can be."""
    seed_tokens: int = Field(512, ge=1)
    """For the plan: mean tokens of a seed."""

    @model_validator(mode="after")
    def _fits(self) -> "SynthesizeConfig":
        made = self.task.type == "tool_dialogue"
        if made == (self.seeds is not None):
            raise ValueError(
                "tool_dialogue takes its tasks as seeds; leave out `seeds`" if made
                else f"task {self.task.type!r} needs `seeds`"
            )  # fmt: skip
        if made and self.num_seeds is None:
            raise ValueError("tool_dialogue needs num_seeds: how many tasks")
        names = [model.place for model in self.models]
        if len(set(names)) < len(names):
            raise ValueError(
                f"two models are called {max(names, key=names.count)!r}; name them apart"
            )
        return self

    @property
    def writers(self) -> list[Writer]:
        """Every model that is asked, each once."""
        return list({w.model_dump_json(): w for w in (*self.models, *self.roles.values())}.values())
