"""Whether what an evals stage reads is there. Imports no torch."""

from environments.inputs import check_environment
from evals.config import EvalsConfig
from evals.registry import BENCHMARKS
from workbench.errors import UserError, name_problem


def check_evals(config: EvalsConfig) -> None:
    """Raises: UserError where an environment of the recipe's own cannot be played, or has a name that is
    taken or no folder's."""
    for name, tasks in config.environments.items():
        problem = "is a benchmark's" if name in BENCHMARKS else name_problem(name)
        if problem or "@" in name:
            raise UserError(
                f"evals.environments: the name {name!r} {problem or 'contains a @'}; give another"
            )
        check_environment(tasks)
