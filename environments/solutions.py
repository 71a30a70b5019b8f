"""An environment's own solutions as training samples: its calls are seen before any is reinforced."""

from itertools import islice

from environments.catalogue import make_environment, take_tasks
from environments.config import EnvironmentSource
from environments.episode import Episode
from environments.protocol import EnvironmentFailed, Task, replies_of
from workbench.conversation import Conversation
from workbench.errors import UserError


def solutions(source: EnvironmentSource, count: int, seed: int) -> list[Conversation]:
    """`count` samples: each reply of solved tasks behind what stands before it, the tools' own answers among
    it. There is no trace: the samples are of reasoning off.

    A user's request is solved by one reply with all its calls, then one without; or by one reply in words.
    Raises: UserError where there are too few tasks, or a task's own solution does not solve it.
    """
    # Calls make two replies or more of a task, words one: the first task says how many tasks are tried first.
    known: dict[str, list[Conversation]] = {}  # solving is an episode: a task is solved once

    def samples(task: Task) -> list[Conversation]:
        if task.id not in known:
            known[task.id] = solved(task)
        return known[task.id]

    (first,) = take_tasks(source.tasks, 1, seed)
    for tasks, fewer in ((-(-count // len(samples(first))), False), (count, True)):
        found = take_tasks(source.tasks, tasks, seed, fewer=fewer)
        out = list(islice((sample for task in found for sample in samples(task)), count))
        if len(out) == count:
            return out
    raise UserError(
        f"environment {source.tasks.type!r} gives {len(out)} samples of solutions, {count} were asked "
        "for; ask for fewer"
    )


def solved(task: Task) -> list[Conversation]:
    """The replies of the task's own solution, each as a sample that ends with it.

    Raises: UserError where there is no solution, it does not solve the task, or the environment fails.
    """
    out: list[Conversation] = []
    world = make_environment(task.environment)
    episode = Episode(world, task)
    try:
        episode.begin()
        turns = world.gold()
        if not turns:
            raise UserError(f"task {task.id!r}: environment {task.environment!r} has no solution")
        for turn in turns:
            for reply in replies_of(turn):
                tools, place = episode.tools, len(episode.messages)
                episode.answer(reply)
                out.append(
                    Conversation(
                        id=f"{task.id}-{episode.num_turns}",
                        domain=task.environment,
                        messages=episode.messages[: place + 1],
                        tools=tools,
                        thinking=False,
                    )
                )
        found = episode.verdict()
    except EnvironmentFailed as error:
        raise UserError(f"task {task.id!r}: its own solution: {error}") from None
    if found.value != 1.0:
        raise UserError(
            f"task {task.id!r}: its own solution does not solve it ({found.parts or found.value}): "
            f"{task.messages[-1]['content']!r:.200}"
        )
    return out
