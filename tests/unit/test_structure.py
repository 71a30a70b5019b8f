"""The house: imports point one way, functions and files stay readable."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# From the top to the bottom: a package imports those below it, and never one above it.
FLOORS = (
    "scripts",
    "reports",
    "pretrain",
    "sft",
    "rl",
    "evals",
    "environments",
    "data_mix",
    "budget",
    "reward",
    "engine",
    "model",
    "workbench",
)
MAX_FUNCTION_LINES, MAX_FILE_LINES = 80, 600
_TARGET = re.compile(r"([a-z_]\w*(?:\.\w+)+)(?::\w+)?")


def files() -> list[Path]:
    return [p for package in FLOORS for p in (ROOT / package).rglob("*.py")]


def named_modules(tree: ast.AST) -> Iterator[str]:
    """The modules that a file imports, or names in a string as "package.module[:name]"."""
    prose = {id(node) for node in docstrings(tree)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield node.module
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            match = _TARGET.fullmatch(node.value)
            if match and id(node) not in prose:
                yield match[1]


def docstrings(tree: ast.AST) -> Iterator[ast.Constant]:
    """Strings that stand alone as a statement."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


def is_module(name: str) -> bool:
    """Whether a dotted name is a module or package of this project."""
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").is_file() or (path / "__init__.py").is_file()


def upward(package: str, tree: ast.AST) -> list[str]:
    """What a file of `package` names on a floor above its own."""
    here = FLOORS.index(package)
    return [
        name
        for name in named_modules(tree)
        if (top := name.split(".")[0]) in FLOORS
        and FLOORS.index(top) < here
        and (is_module(name) or is_module(name.rpartition(".")[0]))
    ]


def test_imports_point_one_way() -> None:
    assert len(files()) > 100
    wrong = [
        f"{path.relative_to(ROOT)} names {name}"
        for path in files()
        for name in upward(
            path.relative_to(ROOT).parts[0], ast.parse(path.read_text(encoding="utf-8"))
        )
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "line",
    [
        "import rl.loss",
        "def f():\n    from rl.loss import policy_loss",
        'TARGET = "rl.loss:policy_loss"',
        'TARGETS = {"a": "rl.loss"}',
    ],
)
def test_an_upward_edge_is_seen_wherever_it_hides(line: str) -> None:
    assert upward("workbench", ast.parse(line)) == ["rl.loss"]
    assert upward("scripts", ast.parse(line)) == []


def test_functions_and_files_stay_short() -> None:
    wrong = []
    for path in files():
        text = path.read_text(encoding="utf-8")
        lines = text.count("\n")
        if lines > MAX_FILE_LINES:
            wrong.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or 0) - node.lineno + 1
                if length > MAX_FUNCTION_LINES:
                    wrong.append(
                        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {length} lines"
                    )
    assert not wrong, "\n".join(wrong)


def public_classes(path: str, tree: ast.Module) -> list[tuple[str, str]]:
    """(name, where) of each class of a module that another module could import by name."""
    return [
        (node.name, f"{path}:{node.lineno}")
        for node in tree.body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]


def test_two_public_classes_never_share_a_name() -> None:
    places: dict[str, list[str]] = {}
    for path in files():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for name, where in public_classes(str(path.relative_to(ROOT)), tree):
            places.setdefault(name, []).append(where)
    wrong = [f"{name}: {', '.join(where)}" for name, where in places.items() if len(where) > 1]
    assert len(places) > 500
    assert not wrong, "\n".join(wrong)
