"""What a stage leaves is declared by its kind: written and read through one class."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import Field, model_validator

from workbench import registry
from workbench.recipe import build
from workbench.registry import Kind
from workbench.results import OwnResult, StageResult, read_outputs, result_class
from workbench.rundir import RunDir
from workbench.stage import StageContext

ROOT = Path(__file__).resolve().parents[3]
PACKAGES = ("data_mix", "pretrain", "sft", "rl", "evals")


def _context(folder: Path) -> StageContext:
    world = {"type": "world", "domain": "math"}
    stage = {"kind": "grpo", "prompts": world, "held_out": world}
    recipe = build({"name": "t", "stages": {"own": stage}})
    return StageContext("own", recipe.stages["own"], recipe, RunDir(folder), {})


@pytest.mark.parametrize("name", sorted(registry.kinds()))
def test_every_kind_declares_what_it_leaves(name: str) -> None:
    assert issubclass(found := result_class(name), StageResult)
    assert found.model_config["extra"] == "forbid" and found().warnings == []


@pytest.mark.parametrize(
    ("found", "wrong"),
    [
        ({"held_out_befor": [1.0]}, "held_out_befor: Extra inputs"),
        ({"tokens": "many"}, "tokens: Input should be a valid integer"),
        ({"phases": [{"name": "a", "start": 0, "end_token": 1}]}, "phases.0.start_token"),
        ({"differences": [{"lift": 1}]}, "differences.0"),
    ],
)
def test_what_is_not_declared_is_not_written(
    found: dict[str, Any], wrong: str, tmp_path: Path
) -> None:
    context = _context(tmp_path)
    context.note(held_out_before=[1.0, None])
    with pytest.raises(TypeError, match=rf"'grpo' leaves {wrong}.*GrpoResult"):
        context.keep(**found)
    assert context.outputs == {"held_out_before": [1.0, None]}


def test_what_cannot_be_read_is_named_and_the_rest_is_read() -> None:
    outputs = {"parameters": 7, "tokens_seen": 3, "phases": [{"name": "a"}], "warnings": ["w"]}
    found, problems = read_outputs("pretrain", outputs)
    assert (found.parameters, found.warnings, found.phases) == (7, ["w"], [])
    assert [line.split(" is not as PretrainResult")[0] for line in problems] == [
        "phases.0.start_token",
        "tokens_seen",
    ]


class _Whole(StageResult):
    """With what no key alone can be wrong in."""

    steps: int
    came_to: dict[str, int] = Field({}, alias="yield")

    @model_validator(mode="after")
    def _trained(self) -> "_Whole":
        if self.tokens is None and self.steps:
            raise ValueError("steps without tokens")
        return self


@pytest.mark.parametrize(
    ("outputs", "problem", "kept"),
    [
        ({"parameters": 7}, "steps is not as _Whole has it (Field required)", OwnResult),
        (
            {"steps": 3, "parameters": 7},
            "the whole is not as _Whole has it (Value error, steps without tokens)",
            OwnResult,
        ),
        (
            {"steps": 0, "parameters": 7, "came_to": {}},
            "came_to is not as _Whole has it (Extra inputs are not permitted)",
            _Whole,
        ),
        (
            {"steps": 0, "parameters": 7, "yield": 3},
            "yield is not as _Whole has it (Input should be a valid dictionary)",
            _Whole,
        ),
    ],
)
def test_what_no_key_can_be_left_out_of_is_read_as_undeclared(
    outputs: dict[str, Any], problem: str, kept: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key is named as the manifest has it."""
    monkeypatch.setattr("workbench.results.result_class", lambda kind: _Whole)
    found, problems = read_outputs("own", outputs)
    assert (type(found), found.parameters, problems) == (kept, 7, [problem])


def test_a_kind_that_declares_nothing_keeps_what_it_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Kind(config="a:B", run="a:b", plan="a:c", about="", version=1)
    monkeypatch.setattr(registry, "kinds", lambda: {"own": own})
    assert result_class("own") is OwnResult
    found, problems = read_outputs("own", {"counts": {"a": 3}, "data": "all", "parameters": 5})
    assert not problems and found.parameters == 5
    assert read_outputs("gone", {"anything": 1})[1] == []


def _written(tree: ast.AST) -> Iterator[str]:
    """The keys that code gives to a stage's context."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            owner = node.func.value
            named = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
            if node.func.attr in ("note", "keep") and named == "context":
                yield from (word.arg for word in node.keywords if word.arg)
        if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Attribute):
            held = node.value.value
            context = getattr(held, "id", getattr(held, "attr", "")) == "context"
            if node.value.attr == "outputs" and context and isinstance(node.slice, ast.Constant):
                yield str(node.slice.value)


@pytest.mark.parametrize("package", PACKAGES)
def test_every_key_in_the_code_is_declared(package: str) -> None:
    """Those of code that no test runs too: a renamed field is found without running a stage."""
    own = {n for n, k in registry.kinds().items() if (k.result or "").startswith(f"{package}.")}
    data = {n for n, k in registry.kinds().items() if (k.result or "").startswith("data_mix.")}
    declared = {key for name in own | data for key in result_class(name).model_fields}
    written = {
        key
        for path in (ROOT / package).rglob("*.py")
        for key in _written(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert written and written <= declared, written - declared


def test_classes_of_results_need_no_torch() -> None:
    """A plan and the report read them."""
    for package in (*PACKAGES, "workbench"):
        tree = ast.parse((ROOT / package / "results.py").read_text(encoding="utf-8"))
        for node in tree.body:
            if isinstance(node, ast.ImportFrom):
                assert node.module is not None
                top = node.module.split(".")[0]
                light = top in ("typing", "collections", "pydantic", "workbench")
                assert light or node.module == "data_mix.results", node.module
