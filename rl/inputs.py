"""Whether what an RL stage reads is there, and its reward's options are options. Imports no torch."""

from collections.abc import Iterator
from dataclasses import replace

from data_mix.config import (
    BfclSource,
    JsonlSource,
    ParquetSource,
    ReasoningSource,
    WorldSource,
)
from data_mix.inputs import check_data, is_elsewhere
from data_mix.world import DOMAINS, conversation_at
from environments.config import EnvironmentSource, PromptsConfig
from environments.inputs import check_environment
from model.lora_config import check_base
from reward.options import check_options
from reward.plugin import check_config
from rl.config import GrpoConfig
from rl.dpo.config import DpoConfig
from rl.preference.rows import look_at_given
from rl.reward_model.config import RewardModelConfig
from rl.rows import Rules, look_ahead
from workbench.conversation import CheckSpec
from workbench.custom_code import is_own, must_name
from workbench.errors import UserError


def check_grpo(config: GrpoConfig) -> list[str]:
    """What was looked at of local files, a line each.

    Raises: UserError where data is missing, a row is bad or a check does not take `reward_options`.
    """
    check_base(config.lora)
    check_data(config, disjoint_rows=("prompts", "held_out"))
    for _, prompts in config.asked:
        if isinstance(prompts, EnvironmentSource):
            check_environment(prompts.tasks)
    for source in config.reward.sources().values():
        if source.function is not None:
            check_config(source.function)
    for path in (config.advantage, config.loss.function):
        if path is not None and is_own(path):
            must_name(path)
    if config.reward_options:
        for spec in _checks(config.prompts):
            try:
                check_options(spec, config.reward_options)
            except UserError as error:
                raise UserError(f"reward_options: {error}") from None
    rules = Rules(config.checked, config.skip_bad, config.reward_options)
    return [
        *looked_at("prompts", config.prompts, rules),
        *looked_at("held_out", config.held_out, replace(rules, options={})),
    ]


def check_reward_model(config: RewardModelConfig) -> list[str]:
    """As `check_grpo`, of a reward model's prompts or given pairs."""
    check_base(config.lora)
    check_data(config, disjoint_rows=("prompts", "held_out"))
    if config.given:
        sources = {"prompts": config.prompts, "held_out": config.held_out}
        return [
            line
            for name, source in sources.items()
            for line in look_at_given(source, config.skip_bad, name)
        ]
    rules = Rules(True, config.skip_bad)
    return [
        *looked_at("prompts", config.prompts, rules),
        *looked_at("held_out", config.held_out, rules),
    ]


def looked_at(name: str, source: PromptsConfig, rules: Rules) -> Iterator[str]:
    """One line on the rows of a local file; none for what is generated or elsewhere."""
    if isinstance(source, JsonlSource | ParquetSource) and not is_elsewhere(source):
        yield look_ahead(source, rules, name=name)


def check_tasks(config: DpoConfig) -> None:
    """Raises: UserError where the package of an environment, or of a base in 4 bits, is not installed."""
    check_base(config.lora)
    for tasks in (config.tasks, config.held_out):
        check_environment(tasks)


def _checks(source: PromptsConfig) -> Iterator[CheckSpec]:
    """A check of each kind that generated prompts have; rows of files are looked at one by one."""
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
