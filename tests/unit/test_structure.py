"""The house: imports point one way, functions and files stay readable."""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("workbench", "data_mix", "pretrain", "sft", "reward", "rl", "budget", "evals", "report")
ALLOWED = {
    "workbench": set(),
    "data_mix": {"workbench", "reward", "pretrain"},
    "pretrain": {"workbench", "data_mix"},
    "sft": {"workbench", "data_mix", "budget", "pretrain"},
    "reward": {"workbench", "pretrain"},
    "rl": {"workbench", "data_mix", "reward", "budget", "pretrain"},
    "budget": {"workbench", "pretrain"},
    "evals": {"workbench", "data_mix", "reward", "budget", "pretrain"},
    "report": {"workbench", "budget", "evals"},
}
MAX_FUNCTION_LINES, MAX_FILE_LINES = 80, 600


def files() -> list[Path]:
    return [p for package in PACKAGES for p in (ROOT / package).rglob("*.py")]


def test_imports_point_one_way() -> None:
    wrong = []
    for path in files():
        package = path.relative_to(ROOT).parts[0]
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                target = name.split(".")[0]
                if target in PACKAGES and target != package and target not in ALLOWED[package]:
                    wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong, "\n".join(wrong)


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
