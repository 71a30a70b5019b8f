"""Tool environments as benchmarks: the tasks that DPO and GRPO hold out, played in the same worlds."""

import sys

from environments.catalogue import make_environment, take_tasks
from environments.config import BfclTasks, HouseTasks, OwnTasks, TasksConfig, WorkplaceTasks
from environments.episode import as_question
from environments.protocol import Environment
from evals.benchmark import Benchmark, BenchmarkSampling
from evals.sources import Data, Loading
from workbench.conversation import Conversation

# The same tasks for every model and every run.
_SEED = 2508
_DRAWN, _ALL, _MAX_TURNS = 100, sys.maxsize, 12


def _world(question: Conversation) -> Environment:
    assert question.check is not None
    return make_environment(question.check.kind)


def of_environment(name: str, tasks: TasksConfig) -> Benchmark:
    """A recipe's own choice of an environment's tasks, under a name of the recipe's."""
    own = BenchmarkSampling(
        temperature=0.0, top_p=1.0, max_tokens=1024, source="the recipe's own: greedy"
    )
    return _benchmark(name, f"tasks of {tasks.type}", Data("the recipe's"), own, tasks)


def _benchmark(
    name: str, about: str, data: Data, protocol: BenchmarkSampling, tasks: TasksConfig
) -> Benchmark:
    drawn = None if _has_an_end(tasks) else _DRAWN

    def load(loading: Loading) -> list[Conversation]:
        # All there are, where the recipe names no number and there are fewer.
        wanted = loading.limit or drawn or _ALL
        chosen = take_tasks(tasks, wanted, _SEED, fewer=loading.limit is None)
        return [as_question(task) for task in chosen]

    return Benchmark(
        name, about, data, load, protocol, world=_world, max_turns=_MAX_TURNS, drawn=drawn,
        # 2: a class of the user's own is handed the whole reply, its trace too.
        version=2 if isinstance(tasks, OwnTasks) else 1,
    )  # fmt: skip


def _has_an_end(tasks: TasksConfig) -> bool:
    """Whether the tasks are those of a list, and not made for as long as one asks."""
    return isinstance(tasks, BfclTasks) or (isinstance(tasks, OwnTasks) and tasks.rows is not None)


BENCHMARKS = (
    _benchmark(
        "house",
        "the miniature's house: one to three requests of the test split, judged by the house's state",
        Data("generated"),
        BenchmarkSampling(
            temperature=0.0, top_p=1.0, max_tokens=256, source="the miniature's own: greedy"
        ),
        HouseTasks(type="house", split="test"),
    ),
    _benchmark(
        "workplace",
        "nemo-gym's workplace, tasks of the test half: six kinds of request over five tables, judged by "
        "the tables' state",
        Data("package nemo-gym", packages=("resources_servers",)),
        BenchmarkSampling(max_tokens=4096, source="ours; sampling of the model card"),
        WorkplaceTasks(type="workplace", half="test"),
    ),
)
