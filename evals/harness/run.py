"""Run one benchmark of lm-eval's harness on a model; its results look as all others do."""

import json
import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from evals.benchmark import Harness
from evals.harness.answers import Answers
from evals.jobs import Job, extended
from evals.responder import LocalResponder, Responder
from evals.samples import Row
from evals.sources import package_folder
from evals.store import RESULT, SampleStore
from evals.summary import summarise
from evals.tasks.base import OWN_TASKS
from workbench.errors import UserError, reason_of, some_of, unknown_name
from workbench.hub import must_answer
from workbench.provenance import digest

# Builders of local files, which need no hub.
_LOCAL = ("json", "csv", "parquet", "text", "arrow")
_SHOWN = 20_000  # characters of a prompt in a sample's row


def run_harness(
    job: Job,
    responder: Responder,
    *,
    model: str,
    out: Path,
    data: Path,
    earlier: Iterable[Path] = (),
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Evaluate and write samples.jsonl to `out`; returns the result. What an earlier run asked is not
    asked again, and a result of the same model with more questions is only made anew.
    watch(done, total): of the present batch of requests.

    Raises: UserError where a data set cannot be had, in one line that names it.
    """
    package_folder("sacrebleu", job.benchmark.name)  # the harness imports it
    from lm_eval import simple_evaluate  # noqa: PLC0415 - seconds of imports

    harness, started = job.benchmark.harness, time.monotonic()
    assert harness is not None
    manager, tasks = _tasks(harness, job.benchmark.name, data)
    store = SampleStore(out)
    there = store.result()
    if there.get("model_digest") == responder.identity:
        job = extended(job, there)  # it stands until it is replaced
    else:
        (out / RESULT).unlink(missing_ok=True)
    answers = Answers(out, earlier)
    lm = _model(job, responder, answers, watch)
    # The harness takes seeds of 32 bits. Orders of few-shot examples are its own default for all.
    found = simple_evaluate(
        lm,
        tasks=tasks,
        num_fewshot=harness.shots,
        limit=job.limit,
        bootstrap_iters=0,
        task_manager=manager,
    )
    rows = sample_rows(found["samples"], harness.metric, lm.failed)
    store.begin(())
    store.finish(rows)
    result = summarise(job, rows, model=model, wall_s=time.monotonic() - started)
    result["truncated"] = lm.num_cut
    result["harness"] = {
        "shots": dict(found["n-shot"]),
        "versions": dict(found["versions"]),
        "results": _plain({**found["results"], **found.get("groups", {})}),
        "asked": answers.num_asked,
    }
    return result


def _model(
    job: Job, responder: Responder, answers: Answers, watch: Callable[[int, int], None]
) -> Any:
    from evals.harness.endpoint_model import EndpointLM  # noqa: PLC0415 - seconds of imports
    from evals.harness.model import EngineLM  # noqa: PLC0415 - same

    if isinstance(responder, LocalResponder):
        return EngineLM(
            responder.tokenizer,
            responder.engine,
            context=responder.context,
            identity=responder.identity,
            answers=answers,
            watch=watch,
        )
    longest = job.sampling.max_tokens
    name = job.benchmark.name
    return EndpointLM(responder, name=name, longest=longest, answers=answers, watch=watch)


def sample_rows(
    samples: Mapping[str, Sequence[Mapping[str, Any]]], metric: str, failed: Mapping[str, str]
) -> list[Row]:
    """Rows of samples.jsonl. A question of which any request failed has no value.

    metric: the one behind the value; "": each task's first. failed: why, by the request's context.
    """
    rows = []
    for task, docs in samples.items():
        first = docs[0]["filter"] if docs else None
        rows += [_row(task, doc, metric, failed) for doc in docs if doc["filter"] == first]
    return rows


def _row(task: str, doc: Mapping[str, Any], metric: str, failed: Mapping[str, str]) -> Row:
    context = str(doc["arguments"][0][0])
    why: dict[str, Any] = {name: doc[name] for name in doc["metrics"] if _is_number(doc.get(name))}
    name = metric or next(iter(why), "")
    if name not in why or not 0 <= why[name] <= 1:
        raise UserError(
            f"lm-eval's task {task!r} gives no {name or 'mean of'} values from 0 to 1; it cannot be one "
            "of a sweep's benchmarks"
        )
    problem = next((failed[str(a[0])] for a in doc["arguments"] if str(a[0]) in failed), "")
    texts = [str(a[1]) for a in doc["arguments"]]
    if doc["resps"] and isinstance(doc["resps"][0][0], (tuple, list)):
        likelihoods = [float(r[0][0]) for r in doc["resps"]]
        why |= {"likelihoods": likelihoods, "options": texts}
        reply = texts[max(range(len(texts)), key=likelihoods.__getitem__)]
        if any(math.isnan(x) for x in likelihoods):
            problem = problem or "generation failed"
    else:
        reply = str(doc["resps"][0][0])
    return {
        "id": f"{task}-{doc['doc_id']}",
        "sample": 0,
        "key": digest([task, doc["doc_hash"], doc["prompt_hash"]]),
        "domain": task,
        "prompt": [{"role": "user", "content": context[-_SHOWN:]}],
        "reply": reply,
        "thinking": "",
        "answer": reply.strip(),
        "tool_calls": None,
        "thought": False,
        "well_formed": not problem,
        "finish_reason": "error" if problem else "stop",
        "tokens": {"thinking": 0, "answer": 0},
        "adheres": None,
        "value": None if problem else float(why[name]),
        "status": "error" if problem else "ok",
        "why": {"reason": problem} if problem else _plain(why),
        "reference": _plain(doc["target"]),
    }


def documents_of(harness: Harness, name: str, data: Path) -> Iterator[tuple[str, list[str]]]:
    """(id, texts) of every question of the tasks: as they are asked, without worked examples, and answered.

    Raises: UserError where their data is not here.
    """
    _, loaded = _loaded(harness, name, data)
    for task_name, task in loaded["tasks"].items():
        for number, doc in enumerate(task.eval_docs):
            answer = task.doc_to_target(doc)
            asked = str(task.doc_to_text(doc))
            yield f"{task_name}-{number}", [asked, *([answer] if isinstance(answer, str) else [])]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) or type(value).__module__ == "numpy"


def _plain(value: Any) -> Any:
    """As JSON has it; what it does not know becomes a number or text."""

    def known(other: Any) -> Any:
        return other.item() if hasattr(other, "item") else str(other)

    return json.loads(json.dumps(value, default=known), parse_constant=lambda _: None)


def _tasks(harness: Harness, name: str, data: Path) -> tuple[Any, list[Any]]:
    """The harness' manager, and the tasks and groups with their data."""
    manager, loaded = _loaded(harness, name, data)
    groups = loaded.get("groups", {})
    top = [name for name in harness.tasks if name in groups]
    return manager, [groups[name] for name in top] or list(loaded["tasks"].values())


def _loaded(harness: Harness, name: str, data: Path) -> tuple[Any, Any]:
    """The harness' manager, and what it loads: {tasks, groups}."""
    from lm_eval.tasks import TaskManager  # noqa: PLC0415 - seconds of imports

    root = package_folder("lm_eval", name) / "tasks"
    folders = [root / folder for folder in harness.folders]
    own = [data / OWN_TASKS] if (data / OWN_TASKS).is_dir() else []
    manager = TaskManager(include_defaults=False, include_path=[*folders, *own])
    if not folders and not set(harness.tasks) <= set(manager.all_tasks):
        manager = TaskManager(include_path=own)  # of all tasks: ten seconds
    specs: list[Any] = list(harness.tasks)
    path = data / f"{name}.jsonl"
    if harness.own_split and path.is_file():
        specs = [_on_file(manager, harness, path)]
    else:
        _must_have(manager, name, harness, data)
    try:
        loaded = manager.load(specs)
    except Exception as error:  # noqa: BLE001 - hub, cache, builders: all mean that data is missing
        why = reason_of(error, 160)
        sets = ", ".join(_data_sets(manager, harness.tasks)[:3])
        raise UserError(
            f"benchmark {name!r}: {sets or 'its data'} cannot be loaded ({why}); {_instead(name, harness, data)}"
        ) from None
    return manager, loaded


def _on_file(manager: Any, harness: Harness, path: Path) -> dict[str, Any]:
    """The one task, its questions from the user's file."""
    from lm_eval.tasks._yaml_loader import load_yaml  # noqa: PLC0415 - seconds of imports

    (task,) = harness.tasks
    config = dict(load_yaml(manager.task_index[task].yaml_path, resolve_func=True))
    for split in ("training_split", "validation_split", "test_split"):
        config[split] = None
    kind = "validation_split" if harness.own_split == "validation" else "test_split"
    files = {harness.own_split: str(path)}
    return config | {
        kind: harness.own_split,
        "dataset_path": "json",
        "dataset_name": None,
        "dataset_kwargs": {"data_files": files},
    }


def _must_have(manager: Any, name: str, harness: Harness, data: Path) -> None:
    sets = _data_sets(manager, harness.tasks)
    if sets:
        must_answer(
            f"benchmark {name!r}: the hub's {some_of(sets, 1)}", _instead(name, harness, data)
        )


def _instead(name: str, harness: Harness, data: Path) -> str:
    if harness.own_split:
        return f"put its rows, as the hub has them, at {data / name}.jsonl"
    return "fetch it into the hub's cache elsewhere, copy HF_HOME here and set HF_HUB_OFFLINE=1"


def _data_sets(manager: Any, names: Sequence[str]) -> list[str]:
    """The hub's data sets behind tasks and groups. Raises: UserError on an unknown task."""
    from lm_eval.tasks._yaml_loader import load_yaml  # noqa: PLC0415 - seconds of imports

    found: dict[str, None] = {}
    waiting, seen = list(names), set[str]()
    while waiting:
        name = waiting.pop()
        entry = manager.task_index.get(name)
        if entry is None:
            raise unknown_name("task of lm-eval", name, manager.all_tasks)
        if name in seen:
            continue
        seen.add(name)
        waiting += sorted(entry.tags) if entry.yaml_path is None else []
        if entry.yaml_path is None:
            continue
        config = load_yaml(entry.yaml_path, resolve_func=False)
        members = config.get("task")
        if isinstance(members, list):
            inside = [m if isinstance(m, str) else m.get("task") or m.get("group") for m in members]
            waiting += [m for m in inside if isinstance(m, str)]
        path = config.get("dataset_path")
        if path and path not in _LOCAL and not Path(path).exists():
            found[str(path)] = None
    return sorted(found)
