"""Whether what an RL stage reads is there, and its reward's options are options. Imports no torch."""

from collections.abc import Iterator
from typing import Any

from data_mix.config import BfclSource, JsonlSource, ReasoningSource, WorldSource
from data_mix.inputs import check_data, check_package, first_row
from data_mix.world import DOMAINS, conversation_at
from environments.config import (
    BfclTasks,
    EnvironmentSource,
    PromptsConfig,
    TasksConfig,
    WorkplaceTasks,
)
from reward.options import check_options
from rl.config import GrpoConfig
from rl.dpo.config import DpoConfig
from workbench.apart import INSTALL, apart_folder
from workbench.conversation import CheckSpec, Conversation
from workbench.errors import UserError


def check_grpo(config: GrpoConfig) -> None:
    """Raises: UserError where data is missing, or a check does not take `reward_options`."""
    check_data(config)
    for source in (config.prompts, config.held_out):
        if isinstance(source, EnvironmentSource):
            _check_environment(source.tasks)
    if config.reward_options:
        for spec in _checks(config.prompts):
            try:
                check_options(spec, config.reward_options)
            except UserError as error:
                raise UserError(f"reward_options: {error}") from None


def check_tasks(config: DpoConfig) -> None:
    """Raises: UserError where the package of an environment is not installed."""
    for tasks in (config.tasks, config.held_out):
        _check_environment(tasks)


def _check_environment(tasks: TasksConfig) -> None:
    if isinstance(tasks, BfclTasks):
        check_package("bfcl_eval", "`make setup`", what="environment bfcl")
    if isinstance(tasks, WorkplaceTasks) and apart_folder("resources_servers") is None:
        raise UserError(f"environment workplace needs nemo-gym, which is not installed; {INSTALL}")


def _checks(source: PromptsConfig) -> Iterator[CheckSpec]:
    """A check of each kind that the prompts have, as far as that is known without opening them."""
    if isinstance(source, ReasoningSource):
        yield CheckSpec("math", "0", {"number": True})
    elif isinstance(source, BfclSource):
        options = {"category": "live_simple", "answer_format": "possible"}
        yield CheckSpec("tools", [{"name": {}}], options)
    elif isinstance(source, WorldSource):
        for domain in DOMAINS if source.domain == "mix" else (source.domain,):
            item = conversation_at(0, domain=domain, split=source.split, seed=0)
            if item.check is not None:
                yield item.check
    elif isinstance(source, JsonlSource) and source.form == "conversation":
        row: dict[str, Any] = first_row("prompts", source)
        check = Conversation.from_row(row).check
        if check is not None:
            yield check
