"""Whether an environment can be played: its package, or the user's own class. Imports no torch."""

from data_mix.inputs import check_package
from environments.config import BfclTasks, OwnTasks, TasksConfig, WorkplaceTasks
from workbench.errors import UserError
from workbench.separate import INSTALL, separate_folder


def check_environment(tasks: TasksConfig) -> None:
    """Raises: UserError where its package is not installed, or a class cannot be played."""
    if isinstance(tasks, BfclTasks):
        check_package("bfcl_eval", "`make setup`", what="environment bfcl")
    if isinstance(tasks, WorkplaceTasks) and separate_folder("resources_servers") is None:
        raise UserError(f"environment workplace needs nemo-gym, which is not installed; {INSTALL}")
    if isinstance(tasks, OwnTasks):
        from environments.custom.tasks import check_own  # noqa: PLC0415 - few recipes need it

        check_own(tasks)
