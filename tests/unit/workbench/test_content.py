"""What a stage reads counts by its content: what runs again when it changes, and what does not."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import pytest
from pydantic import BaseModel

from tests.unit.workbench.test_graph import done
from workbench import content, registry
from workbench.content import Reads, pinned
from workbench.graph import task
from workbench.graph.dag import Decision, decide
from workbench.graph.task import run_stage
from workbench.recipe import Recipe, build
from workbench.rundir import RunDir

TEXT = '{"text": "one"}\n{"text": "two"}\n'


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settled at once, so that the quick test is what is tested."""
    folder = tmp_path / "data"
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "evals" / "lm-eval").mkdir(parents=True)
    for name in ("t.jsonl", "part-1.jsonl", "part-2.jsonl", "against.jsonl"):
        (folder / name).write_text(TEXT)
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    (folder / "tokenizer" / "model.safetensors").write_text("weights")
    (folder / "model.gguf").write_text("gguf")
    (folder / "evals" / "gsm8k.jsonl").write_text(TEXT)
    monkeypatch.setattr(content, "_SETTLED_S", -1.0)
    return folder


def recipe_of(data: Path) -> Recipe:
    def blend(path: str, **more: Any) -> dict[str, Any]:
        source = {"type": "jsonl", "form": "text", "column": "text", "path": str(data / path)}
        return {"sources": {"s": source | more}, "phases": [{"until": 1.0, "weights": {"s": 1}}]}

    against = {"clean": {"decontaminate_against": str(data / "against.jsonl")}}
    evals = {"benchmarks": ["gsm8k"], "data": str(data / "evals")}
    rows = {"type": "jsonl", "form": "conversation", "path": str(data / "t.jsonl")}
    stages: dict[str, Any] = {
        "one": {"kind": "tokenizer", "blend": blend("t.jsonl")},
        "glob": {"kind": "tokenizer", "blend": blend("part-*.jsonl")},
        "clean": {"kind": "tokenizer", "blend": blend("part-1.jsonl", **against)},
        "taken": {"kind": "tokenizer", "from_pretrained": str(data / "tokenizer")},
        "gguf": {"kind": "convert", "source": {"type": "gguf", "path": str(data / "model.gguf")}},
        "folder": {"kind": "convert", "source": {"type": "checkpoint", "path": str(data / "tokenizer")}},
        "sft": {"kind": "sft", "parts": {"p": {"source": rows, "samples": 1}}},
        "grpo": {"kind": "grpo", "prompts": {"type": "world"}, "held_out": rows},
        "measured": {"kind": "evals", **evals},
        "generated": {"kind": "evals", "benchmarks": ["mini-math"], "data": str(data / "evals")},
        "merge": {"kind": "merge", "needs": ["gguf", "folder"], "evals": evals},
        "world": {"kind": "sft", "parts": {"p": {"source": {"type": "world"}, "samples": 1}}},
    }  # fmt: skip
    return build({"name": "t", "stages": stages})


def changed(recipe: Recipe, run: RunDir) -> set[str]:
    """The stages that run again, seen by a process that starts anew."""
    again = RunDir(run.root)
    found = {stage: decide(recipe, again, stage, set()) for stage in recipe.stages}
    assert all("its data changed: " in d.reason for d in found.values() if d.run)
    return {stage for stage, decision in found.items() if decision.run}


def rewrite_in_place(path: Path) -> None:
    """Another text of the same length, size and modification time."""
    stat = path.stat()
    path.write_text(TEXT.replace("two", "six"))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == (stat.st_size, stat.st_mtime_ns)


CHANGES: dict[str, tuple[Callable[[Path], Any], set[str]]] = {
    "nothing": (lambda d: None, set()),
    "rewritten in place": (lambda d: rewrite_in_place(d / "t.jsonl"), {"one", "sft", "grpo"}),
    "a line less": (lambda d: (d / "t.jsonl").write_text(TEXT[:16]), {"one", "sft", "grpo"}),
    "touched": (lambda d: os.utime(d / "t.jsonl"), set()),
    "copied over itself": (lambda d: (d / "t.jsonl").write_text(TEXT), set()),
    "another file by rename": (
        lambda d: os.replace(d / "against.jsonl", d / "part-1.jsonl"), {"glob"}
    ),
    "a second file under the glob": (lambda d: (d / "part-3.jsonl").write_text(TEXT), {"glob"}),
    "a file of the glob gone": (lambda d: (d / "part-2.jsonl").unlink(), {"glob"}),
    "two files of the glob swapped": (
        lambda d: (d / "part-2.jsonl").write_text("{}") and (d / "part-2.jsonl").write_text(TEXT), set()
    ),
    "other benchmark prompts": (lambda d: (d / "against.jsonl").write_text("{}"), {"clean"}),
    "another tokenizer": (
        lambda d: (d / "tokenizer" / "tokenizer.json").write_text("[]"), {"taken", "folder"}
    ),
    "other weights beside a tokenizer": (
        lambda d: (d / "tokenizer" / "model.safetensors").write_text("heavier"), {"folder"}
    ),
    "another GGUF": (lambda d: (d / "model.gguf").write_text("fugg"), {"gguf"}),
    "another question": (
        lambda d: (d / "evals" / "gsm8k.jsonl").write_text(TEXT * 2), {"measured", "merge"}
    ),
    "a task of lm-eval": (
        lambda d: (d / "evals" / "lm-eval" / "t.yaml").write_text("a: 1"), {"measured", "merge"}
    ),
    "a hidden file": (lambda d: (d / "evals" / ".gsm8k.swp").write_text("x"), set()),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_what_runs_again(name: str, data: Path, tmp_path: Path) -> None:
    recipe, run = recipe_of(data), RunDir(tmp_path / "run")
    for stage in recipe.stages:
        done(recipe, run, stage, stage)
    run.contents.save()
    assert changed(recipe, run) == set()
    change, expected = CHANGES[name]
    change(data)
    if name == "another file by rename":  # the prompts are gone; the file that came is the same
        expected = set()
    assert changed(recipe, run) == expected


def test_data_that_is_gone_keeps_a_result_and_ends_a_continuation(
    data: Path, tmp_path: Path
) -> None:
    recipe, run = recipe_of(data), RunDir(tmp_path / "run")
    manifest = done(recipe, run, "one", "1")
    (data / "t.jsonl").unlink()
    assert not decide(recipe, run, "one", set()).run
    run.write_manifest(replace(manifest, status="running"))
    assert decide(recipe, run, "one", set()) == Decision(
        "one", True, f"its data changed: {data / 't.jsonl'}"
    )


def test_a_stopped_stage_over_changed_data_starts_anew(data: Path, tmp_path: Path) -> None:
    recipe, run = recipe_of(data), RunDir(tmp_path / "run")
    manifest = done(recipe, run, "glob", "1")
    run.write_manifest(replace(manifest, status="running"))
    assert decide(recipe, run, "glob", set()).resume
    (data / "part-2.jsonl").write_text(TEXT[:16])
    decision = decide(recipe, run, "glob", set())
    assert (decision.run, decision.resume) == (True, False)
    assert decision.reason == f"its data changed: {data / 'part-*.jsonl'}"


def test_an_unchanged_file_is_not_read_again_and_a_fresh_one_is(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    whole = content._hash

    def counted(path: Path) -> str:
        read.append(path)
        return whole(path)

    monkeypatch.setattr(content, "_hash", counted)
    recipe, run = recipe_of(data), RunDir(tmp_path / "run")
    done(recipe, run, "glob", "1")
    run.contents.save()
    assert [path.name for path in read] == ["part-1.jsonl", "part-2.jsonl"]
    assert not decide(recipe, RunDir(run.root), "glob", set()).run
    assert len(read) == 2
    # Within a tick of the disk's clock a second write could look like the first.
    monkeypatch.setattr(content, "_SETTLED_S", 60.0)
    (data / "part-1.jsonl").write_text(TEXT)
    for _ in range(2):
        again = RunDir(run.root)
        assert not decide(recipe, again, "glob", set()).run
        again.contents.save()
    assert [path.name for path in read[2:]] == ["part-1.jsonl", "part-1.jsonl"]


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": [1, 2]}', "nonsense", "\x00"])
def test_what_is_remembered_may_be_garbage(text: str, data: Path, tmp_path: Path) -> None:
    recipe, run = recipe_of(data), RunDir(tmp_path / "run")
    done(recipe, run, "one", "1")
    (run.root / content._CACHE).write_text(text)
    assert not decide(recipe, RunDir(run.root), "one", set()).run


def test_a_stage_is_run_skipped_and_run_again_by_its_file(data: Path, tmp_path: Path) -> None:
    rows = "".join(f'{{"text": "{i} and {i + 1} are {2 * i + 1}"}}\n' for i in range(120))
    (data / "t.jsonl").write_text(rows)
    whole = recipe_of(data).resolved()
    stage = whole["stages"]["one"] | {"vocab_size": 300, "sample_documents": 100}
    recipe = build({"name": "t", "stages": {"one": stage}})
    run = RunDir(tmp_path / "run")
    run.root.mkdir()
    run.adopt(recipe.resolved())
    first = run_stage(recipe.resolved(), str(run.root), decide(recipe, run, "one", set()), False)
    assert first.status == "done", first.message
    assert decide(recipe, run, "one", set()).reason == "done and unchanged"
    (data / "t.jsonl").write_text(rows.replace("and", "und"))
    decision = decide(recipe, run, "one", set())
    assert decision.reason == f"its data changed: {data / 't.jsonl'}"
    assert run_stage(recipe.resolved(), str(run.root), decision, False).status == "done"
    assert not decide(recipe, run, "one", set()).run
    assert (run.root / ".replaced" / "one" / "tokenizer").is_dir()


HUB = {
    "name": "t",
    "stages": {
        "taken": {"kind": "tokenizer", "from_pretrained": "org/model"},
        "sft": {"kind": "sft", "parts": {
            "open": {"source": {"type": "hub", "id": "org/open"}, "samples": 1},
            "fixed": {"source": {"type": "hub", "id": "org/fixed", "revision": "abc"}, "samples": 1}}},
        "base": {"kind": "convert", "source": {"type": "checkpoint", "path": "org/other"}},
    },
}  # fmt: skip


def test_a_name_on_the_hub_keeps_the_commit_of_the_first_attempt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    newest = ["c1"]

    def commit(kind: str, name: str) -> str:
        asked.append((kind, name))
        return newest[0]

    monkeypatch.setattr(task, "newest_commit", commit)
    recipe, run = build(HUB), RunDir(tmp_path)
    _, config = task._open_manifest(recipe, run, Decision("sft", True, ""))
    parts: Any = config.parts  # type: ignore[attr-defined]
    assert (parts["open"].source.revision, parts["fixed"].source.revision) == ("c1", "abc")
    assert asked == [("dataset", "org/open")]
    newest[0] = "c2"
    _, config = task._open_manifest(recipe, run, Decision("sft", True, "", resume=True))
    assert config.parts["open"].source.revision == "c1"  # type: ignore[attr-defined]
    _, config = task._open_manifest(recipe, run, Decision("sft", True, "asked for with --fresh"))
    assert config.parts["open"].source.revision == "c2"  # type: ignore[attr-defined]
    for stage in ("taken", "base"):
        task._open_manifest(recipe, run, Decision(stage, True, ""))
    assert asked[-2:] == [("model", "org/model"), ("model", "org/other")]
    assert decide(recipe, run, "taken", set()).reason == "continues where it stopped"


def test_where_the_hub_says_nothing_the_name_stays_open() -> None:
    config = build(HUB).stages["sft"]
    assert pinned(config, lambda mark, name: None) == config


def test_the_order_of_needs_counts(tmp_path: Path) -> None:
    def recipe(first: str, second: str) -> Recipe:
        world = {"p": {"source": {"type": "world"}, "samples": 1}}
        evals = {"benchmarks": ["mini-math"]}
        stages: dict[str, Any] = {
            "a": {"kind": "sft", "parts": world},
            "b": {"kind": "sft", "parts": world},
            "merge": {"kind": "merge", "needs": [first, second], "evals": evals},
            "sft": {"kind": "sft", "needs": [first, second], "parts": world},
        }
        return build({"name": "t", "stages": stages})

    run = RunDir(tmp_path)
    for stage in ("a", "b", "merge", "sft"):
        done(recipe("a", "b"), run, stage, stage)
    for stage in ("merge", "sft"):
        assert not decide(recipe("a", "b"), run, stage, set()).run
        reason = decide(recipe("b", "a"), run, stage, set()).reason
        assert reason == "its configuration changed"


# Text fields of stages that name nothing to read: names of ours, of servers, of parts of a file.
NO_PLACE = {
    "kind", "where", "against", "needs", "model", "models", "metric", "benchmarks", "teacher", "thinking", "name", "type",
    "domain", "split", "category", "categories", "column", "columns", "check", "answer_after", "tools_column", "form", "config", "id",
    "revision", "system", "half", "domains", "tools", "endpoint", "api_key_env", "logits_processors",
    "forced", "package", "data", "principle", "instruction", "rubric", "among", "keep", "base",
    "allow", "to", "origin", "language", "embeddings", "style", "personas", "criteria", "host_column", "text_column", "label", "languages",
    "told",
    "checkpoint",  # of a fork: what it held is in the manifest, by SHA-256
}  # fmt: skip


def texts(model: type[BaseModel], seen: set[type[BaseModel]]) -> Iterator[tuple[str, Any]]:
    if model in seen:
        return
    seen.add(model)
    for name, field in model.model_fields.items():
        yield from _texts(name, field.annotation, field.metadata, seen)


def _texts(
    name: str, annotation: Any, marks: list[Any], seen: set[type[BaseModel]]
) -> Iterator[tuple[str, Any]]:
    if annotation is str:
        yield name, any(isinstance(mark, Reads) for mark in marks)
    elif isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield from texts(annotation, seen)
    elif getattr(annotation, "__origin__", None) is not Literal:
        keyed = getattr(annotation, "__origin__", None) is dict
        for part in get_args(annotation)[keyed:]:
            yield from _texts(name, part, marks, seen)


@pytest.mark.parametrize("kind", registry.kinds())
def test_every_text_of_a_stage_is_marked_as_read_or_known_to_be_no_place(kind: str) -> None:
    config = registry.resolve(registry.kinds()[kind].config)
    open_ones = {name for name, marked in texts(config, set()) if not marked}
    assert open_ones <= NO_PLACE, "mark it with workbench.content.Reads, or add it to the list"
