"""Whether what an SFT stage reads is there. Imports no torch."""

from data_mix.inputs import check_rows
from environments.config import EnvironmentSource
from environments.inputs import check_environment
from model.lora_config import check_base
from sft.config import SftConfig


def check_sft(config: SftConfig) -> list[str]:
    """As data_mix.inputs.check_rows, and whether environments can be played."""
    check_base(config.lora)
    further = config.validation.parts if config.validation else {}
    for part in (*config.parts.values(), *further.values()):
        if isinstance(part.source, EnvironmentSource):
            check_environment(part.source.tasks)
    return check_rows(config)
