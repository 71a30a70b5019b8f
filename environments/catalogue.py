"""The environments by name: how to make one and where its tasks come from."""

from environments.config import (
    HouseTasks,
    OwnTasks,
    TasksConfig,
    WorkplaceTasks,
)
from environments.protocol import Environment, Task
from environments.question import NAME, QuestionEnvironment


def make_environment(name: str) -> Environment:
    """A fresh world of this kind; each is imported when first asked for."""
    if name == NAME:
        return QuestionEnvironment()
    if name == "house":
        from environments.house import House  # noqa: PLC0415 - see docstring

        return House()
    if name == "bfcl":
        from environments.bfcl.world import Bfcl  # noqa: PLC0415 - see docstring

        return Bfcl()
    if name == "workplace":
        from environments.workplace import Workplace  # noqa: PLC0415 - see docstring

        return Workplace()
    if ":" in name:
        from environments.custom.world import Own  # noqa: PLC0415 - see docstring

        return Own()
    raise ValueError(f"no environment {name!r}")


def take_tasks(config: TasksConfig, n: int, seed: int, *, fewer: bool = False) -> list[Task]:
    """`n` different tasks. Raises: UserError where the source has fewer, but for BFCL and a class of the
    user's own with `fewer`, which give all that they have."""
    if isinstance(config, HouseTasks):
        from environments import house  # noqa: PLC0415 - see make_environment

        return house.tasks(config.split, n, seed, requests=config.requests, offered=config.offered)
    if isinstance(config, WorkplaceTasks):
        from environments import workplace_tasks  # noqa: PLC0415 - see make_environment

        return workplace_tasks.tasks(config, n, seed)
    if isinstance(config, OwnTasks):
        from environments.custom import tasks as own  # noqa: PLC0415 - see make_environment

        return own.tasks(config, n, seed, fewer=fewer)
    from environments.bfcl import tasks as bfcl  # noqa: PLC0415 - see make_environment

    return bfcl.tasks(config, n, seed, fewer=fewer)
