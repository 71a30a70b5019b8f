"""BFCL's multi-turn entries as tasks: as they are for a benchmark, in halves for training."""

import random
from hashlib import blake2b
from typing import Any

from environments.bfcl.world import parameters_of
from environments.config import BfclTasks
from environments.protocol import Task
from reward.bfcl import Entry, documents, entries, json_schema, read_call
from workbench.errors import UserError


def tasks(config: BfclTasks, n: int, seed: int, *, fewer: bool = False) -> list[Task]:
    """`n` tasks of the configured half; with `fewer` all of it, where that is less. Raises: UserError
    where there are not enough."""
    found = entries(f"multi_turn_{config.category}")
    rows = [row for row in found if half_of(row["id"]) == config.half]
    if n > len(rows) and not fewer:
        raise UserError(
            f"bfcl {config.category}/{config.half} has {len(rows)} tasks, {n} were asked for; ask "
            "for fewer"
        )
    random.Random(f"{seed}/{config.category}").shuffle(rows)
    return [_limited(task_of(solvable(row)), config.distractors, seed) for row in rows[:n]]


def half_of(identity: str) -> str:
    """Half of the task's number: the four categories are variants of the same 200 tasks."""
    number = identity.rsplit("_", 1)[1]
    return "train" if blake2b(number.encode(), digest_size=1).digest()[0] % 2 else "test"


def solvable(entry: Entry) -> Entry:
    """The entry with the gold of turns that it lacks put to its last one.

    Only reward.bfcl.UNSATISFIABLE's has such: nobody could solve it as it is.
    """
    gold, last = entry["ground_truth"], len(entry["question"]) - 1
    folded = [*gold[:last], [call for turn in gold[last:] for call in turn]]
    return {**entry, "ground_truth": folded}


def task_of(entry: Entry) -> Task:
    """A multi-turn entry as a task with all tools of its APIs, but those that come in a later turn."""
    late = {str(turn): list(names) for turn, names in entry.get("missed_function", {}).items()}
    held = {name for names in late.values() for name in names}
    known = [d for api in entry["involved_classes"] for d in documents(api)]
    return Task(
        id=str(entry["id"]),
        environment="bfcl",
        messages=[dict(message) for message in entry["question"][0]],
        tools=[json_schema(d) for d in known if d["name"] not in held],
        data={
            "id": entry["id"],
            "apis": entry["involved_classes"],
            "config": entry["initial_config"],
            "turns": entry["question"],
            "solution": entry["ground_truth"],
            "late": late,
        },
    )


def _limited(task: Task, distractors: int | None, seed: int) -> Task:
    """The task with the tools of its solution and so many others on offer; None: all."""
    if distractors is None:
        return task
    parameters = parameters_of(task.data["apis"])
    needed = {read_call(c, parameters)["name"] for turn in task.data["solution"] for c in turn}
    needed |= {name for names in task.data["late"].values() for name in names}
    others = [name for name in parameters if name not in needed]
    rng = random.Random(f"{seed}/{task.id}")
    kept = needed | set(rng.sample(others, min(distractors, len(others))))
    tools: list[dict[str, Any]] = [tool for tool in task.tools if tool["name"] in kept]
    return Task(task.id, task.environment, task.messages, tools, task.data)
