"""An environment's own solutions as training samples: its calls are seen before any is reinforced."""

from collections.abc import Iterator
from itertools import islice

from environments.catalogue import make_environment, take_tasks
from environments.config import EnvironmentSource
from environments.episode import Episode
from environments.protocol import Task, replies_of
from workbench.conversation import Conversation
from workbench.errors import UserError


def solutions(source: EnvironmentSource, count: int, seed: int) -> list[Conversation]:
    """`count` samples: each reply of solved tasks behind what stands before it, the tools' own answers among
    it. There is no trace: the samples are of reasoning off.

    A user's request is solved by one reply with all its calls, then one without; or by one reply in words.
    Raises: UserError where there are too few tasks, or a task's own solution does not solve it.
    """
    # Calls make two replies or more of a task, words one: half as many tasks are tried first.
    for tasks in (-(-count // 2), count):
        out = list(islice(_all_solved(source, tasks, seed), count))
        if len(out) == count:
            break
    else:
        raise UserError(
            f"environment {source.tasks.type!r} gives {len(out)} samples of solutions, {count} were asked "
            "for; ask for fewer"
        )
    return out


def _all_solved(source: EnvironmentSource, tasks: int, seed: int) -> Iterator[Conversation]:
    for task in take_tasks(source.tasks, tasks, seed):
        yield from list(solved(task))  # to its end: what is wrong with it is said there


def solved(task: Task) -> Iterator[Conversation]:
    """The replies of the task's own solution, each as a sample that ends with it."""
    world = make_environment(task.environment)
    episode = Episode(world, task)
    episode.begin()
    for turn in world.gold():
        for reply in replies_of(turn):
            tools, place = episode.tools, len(episode.messages)
            episode.answer(reply)
            yield Conversation(
                id=f"{task.id}-{episode.num_turns}",
                domain=task.environment,
                messages=episode.messages[: place + 1],
                tools=tools,
                thinking=False,
            )
    found = episode.verdict()
    if found.value != 1.0:
        raise UserError(
            f"task {task.id!r}: its own solution does not solve it ({found.parts or found.value}): {task.messages[-1]['content']!r:.200}"
        )
