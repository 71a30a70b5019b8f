"""What a synthesis will cost: replies and tokens by model. Imports no torch."""

from data_mix.inputs import check_data, check_package
from evals.synthesis.config import (
    AcademicQaTask,
    CodeQaTask,
    FrSftTask,
    LongDocumentQaTask,
    MindTask,
    SafetyTask,
    StemTask,
    SynthesizeConfig,
    ToolDialogueTask,
    TracesTask,
    TranslateTask,
    When2CallTask,
    Writer,
)
from workbench.load import AskedLoad
from workbench.recipe import Recipe
from workbench.stage import StagePlan

_PROMPT_TOKENS = 120  # our own words around a seed, by the longest prompt
_ROW_BYTES_A_TOKEN = 6  # text in UTF-8, kept as a reply and as a row


def check_inputs(config: SynthesizeConfig) -> None:
    """Raises: UserError where seeds are not there, or an engine is needed that is not installed."""
    check_data(config)
    for writer in config.writers:
        if not writer.served:
            check_package("vllm", "`make setup`", what=f"model {writer.place!r}")


def replies_a_seed(config: SynthesizeConfig) -> dict[str, float]:
    """Part -> replies for one seed and one writer, at most."""
    task = config.task
    if isinstance(task, StemTask | FrSftTask):
        chains = task.rounds * (len(task.prompts) if isinstance(task, StemTask) else 1)
        return {"writer": chains, "solver": chains * task.answers.samples}
    if isinstance(task, MindTask):
        return {"writer": task.per_text or len(task.styles)}
    if isinstance(task, LongDocumentQaTask):
        asked = max(1, round(task.share * config.seed_tokens / task.chunk_tokens))
        return {"writer": asked, "solver": 2 * asked if task.answerable else 0}
    if isinstance(task, AcademicQaTask):
        parts = max(1, -(-config.seed_tokens // task.chunk_tokens))
        return {"writer": parts, "solver": parts * (1 + task.closed_book)}
    if isinstance(task, CodeQaTask):
        return {"writer": 1 + task.tests, "solver": 1}
    if isinstance(task, TranslateTask):
        return {"writer": max(1, -(-config.seed_tokens // (20 * task.lines_at_once)))}
    if isinstance(task, ToolDialogueTask):
        return {"user": task.max_replies, "writer": task.max_replies}
    if isinstance(task, When2CallTask):
        return {"writer": len(task.withhold), "user": float("argument" in task.withhold)}
    if isinstance(task, SafetyTask):
        return {"writer": task.samples, "guard": task.samples}
    return {"writer": task.samples if isinstance(task, TracesTask) else 1}


def shown_tokens(config: SynthesizeConfig) -> int:
    """Tokens of the seed that one request shows."""
    task = config.task
    if isinstance(task, LongDocumentQaTask):
        return min(task.chunk_tokens, config.seed_tokens)
    if isinstance(task, AcademicQaTask):
        return task.chunk_tokens * (1 + task.neighbours)
    if isinstance(task, TranslateTask):
        return min(20 * task.lines_at_once, config.seed_tokens)
    return config.seed_tokens


def replies_by_model(config: SynthesizeConfig, seeds: int) -> dict[str, tuple[Writer, float]]:
    """Model -> (how it is asked, replies in all, at most)."""
    counts: dict[str, float] = {}
    known: dict[str, Writer] = {}
    roles = {str(role): writer for role, writer in config.roles.items()}
    for writer in config.models:
        for part, number in replies_a_seed(config).items():
            who = roles.get(part, writer)
            known[who.place] = who
            counts[who.place] = counts.get(who.place, 0) + number * seeds
    return {name: (known[name], number) for name, number in counts.items() if number}


def plan_synthesize(config: SynthesizeConfig, recipe: Recipe) -> StagePlan:
    """Replies, tokens and disk; what our own engine generates is priced."""
    if config.num_seeds is None:
        line = f"{config.task.type} on every seed by {', '.join(w.place for w in config.models)}"
        return StagePlan(lines=(line,), disk_bytes=2**26)
    lines, loads, asked, tokens = [], [], list[AskedLoad](), 0
    for name, (writer, replies) in replies_by_model(config, config.num_seeds).items():
        each = config.row_tokens or writer.max_tokens
        own = round(replies * each)
        tokens += own
        bound = "about" if config.row_tokens else "at most"
        lines.append(f"{name}: {replies:,.0f} replies of {bound} {each:,} tokens = {own:,} tokens")
        prompts = round(replies * (shown_tokens(config) + _PROMPT_TOKENS))
        asked.append(
            AskedLoad(
                name, round(replies), prompts, own, bound=config.row_tokens is None,
                disk_bytes=_ROW_BYTES_A_TOKEN * own,
            )
        )  # fmt: skip
        if writer.stage is not None:
            loads.append(writer.engine.load(own))
    return StagePlan(
        lines=(f"{config.task.type}, {config.num_seeds:,} seeds", *lines),
        tokens=tokens, disk_bytes=_ROW_BYTES_A_TOKEN * tokens, loads=tuple(loads),
        data=tuple(asked),
    )  # fmt: skip
