"""The plan of `curate`, and whether what its steps need is on this machine. Imports no torch."""

import shutil

from data_mix.curate.config import (
    CurateConfig,
    DecontaminateStep,
    EquationsStep,
    FilesSource,
    HtmlStep,
    LanguageStep,
    RewriteStep,
    WarcSource,
    columns_after,
    input_columns,
)
from data_mix.curate.questions import names_of
from data_mix.curate.steps.language import identifier
from data_mix.files import files_of
from data_mix.inputs import check_data, check_package, must_be_readable
from data_mix.rates import TEXT_OF_HTML, load_of
from workbench.errors import UserError
from workbench.load import AskedLoad
from workbench.recipe import Recipe
from workbench.stage import StagePlan

_CHARACTERS_A_TOKEN = 4
_PROMPT_TOKENS = 120  # our own words around a piece


def plan_curate(config: CurateConfig, recipe: Recipe) -> StagePlan:
    """What is read and done. Raises: UserError where a step has not the columns that it needs."""
    before = input_columns(config.input)
    if before is not None:
        try:
            columns_after(config, before)
        except ValueError as error:
            raise UserError(str(error)) from None
    return StagePlan(
        lines=(
            f"{config.input.type} -> {' -> '.join(config.names())}",
            f"shards of {config.rows_per_shard:,} rows, each exact after a kill",
        ),
        data=(
            *load_of(
                config.expected, _rated(config), kept=TEXT_OF_HTML if _renders(config) else 1.0
            ),
            *_asked(config),
        ),
    )


def _asked(config: CurateConfig) -> list[AskedLoad]:
    """What models that rewrite are going to read and write, a reply a piece."""
    if config.expected is None:
        return []
    characters = config.expected.row_bytes * (TEXT_OF_HTML if _renders(config) else 1.0)
    loads = []
    for step in config.steps:
        if isinstance(step, RewriteStep):
            tokens = characters / _CHARACTERS_A_TOKEN
            replies = config.expected.rows * max(1, -(-tokens // step.chunk_tokens))
            written = round(config.expected.rows * tokens * step.reply_share)
            prompts = round(config.expected.rows * tokens + replies * _PROMPT_TOKENS)
            name = step.by.endpoint.partition("#")[2]
            loads.append(AskedLoad(name, round(replies), prompts, written, bound=False, disk_bytes=4 * written))  # fmt: skip
    return loads


def _renders(config: CurateConfig) -> bool:
    return any(isinstance(step, HtmlStep) for step in config.steps)


def _rated(config: CurateConfig) -> list[str]:
    """The steps by the names under which their rates were measured."""
    found = []
    for name, step in zip(config.names(), config.steps, strict=True):
        if isinstance(step, HtmlStep):
            found.append(f"equations+html {step.by}")
        elif not isinstance(step, EquationsStep):
            found.append(name)
    return found


def check_inputs(config: CurateConfig) -> list[str]:
    """Look for files, programs and packages; a line for each program that is to be installed first.

    Raises: UserError naming what is missing.
    """
    check_data(config)
    if isinstance(config.input, WarcSource):
        check_package("fastwarc", "`make setup`", what="input of type warc")
    lines = missing_programs(config)
    if isinstance(config.input, WarcSource | FilesSource):
        found = files_of(config.input.path)
        if not found and isinstance(config.input, WarcSource) and config.input.from_debian:
            return [
                *lines,
                f"makes {config.input.path} of Debian's packages (up to 45 MB to download)",
            ]
        if not found and config.expected is not None and config.expected.from_network:
            return [
                *lines,
                f"{config.input.path} is not here yet: planned, and not to be run before it is",
            ]
        if not found:
            raise UserError(f"input: no file matches {config.input.path!r}; check the path")
        must_be_readable(found[0], what="input")
    for step in config.steps:
        if isinstance(step, DecontaminateStep):
            names_of(step.against, step.data)
        if isinstance(step, LanguageStep):
            check_package("py3langid", "`make setup`", what="step language")
            identifier(step.among)
    return lines


def missing_programs(config: CurateConfig) -> list[str]:
    """What is wrong where a step needs a program that is not installed. The run ends with the first."""
    lines = []
    for step in config.steps:
        if isinstance(step, HtmlStep) and step.by == "lynx":
            lines.append(_missing("lynx", "step html", "write {type: html, by: resiliparse}"))
        if isinstance(step, EquationsStep) and step.bare == "pandoc":
            lines.append(
                _missing("pandoc", "step equations", "write {type: equations, bare: leave}")
            )
    return [line for line in lines if line]


def _missing(name: str, what: str, instead: str) -> str:
    if shutil.which(name) is not None:
        return ""
    return (
        f"{what} needs the program {name}, which is not installed; install it "
        f"(Debian: apt-get install {name}), or {instead}"
    )
