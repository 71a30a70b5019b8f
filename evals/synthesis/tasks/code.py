"""A problem after a piece of code, and a solution that parses, or passes its tests [paper 3.5]."""

import ast
from collections.abc import Sequence

from data_mix.gates import alike
from environments.question import checked
from evals.synthesis import parsing
from evals.synthesis.config import CodeQaTask
from evals.synthesis.seeds import Seed, spoken, talk
from evals.synthesis.work import GateRefusal, Piece, Wanted, Work, ask, user, value_of, whole
from workbench.conversation import CheckSpec

_WRITE = """Here is a piece of {language}:

```{language}
{code}
```

Write one self-contained programming problem in {language} that uses an idea of it. {form}Do not solve it, and do not speak of the piece itself.
Write the problem alone, after the word "Problem:"."""
_NAMED = (
    "Say the name of the function to write, in backticks, with its arguments and what it returns. "
)
_TESTS = """{problem}

Write five assert statements in Python that a right solution passes, in one ```python block. Call the function by its name, import nothing and define nothing."""
_SOLVE = "{problem}\n\nWrite the whole solution in one ```{language} block."
_LEAST_TESTS, _TOO_ALIKE = 2, 0.9


def pieces(task: CodeQaTask, seed: Seed, models: Sequence[str]) -> list[Piece]:
    """A problem and its solution by each model."""
    return [
        Piece(f"{seed.id}/{model}", 1, model, _solved(task, seed, f"{seed.id}/{model}", model))
        for model in models
    ]


def _solved(task: CodeQaTask, seed: Seed, name: str, model: str) -> Work:
    form = _NAMED if task.tests else ""
    (written,) = yield [ask(_WRITE.format(language=task.language, code=seed.text, form=form))]
    problem = parsing.problem(whole(written[0]).answer)
    if problem is None or len(problem) < 20:
        return [GateRefusal("no problem alone", whole(written[0]).answer[:300])]
    if alike(problem, seed.text) >= _TOO_ALIKE:
        return [GateRefusal("the seed again", problem[:300])]
    wanted = [Wanted(user(_SOLVE.format(problem=problem, language=task.language)), who="solver")]
    wanted += [ask(_TESTS.format(problem=problem), greedy=True)] if task.tests else []
    replies = yield wanted
    solution = whole(replies[0][0])
    code = parsing.fenced(solution.answer, task.language)
    if code is None:
        return [GateRefusal("no block of code", solution.answer[:300])]
    if task.language == "python" and (wrong := python_problem(code)):
        return [GateRefusal(wrong, code[:300])]
    check = None
    if task.tests:
        spec = _tests(whole(replies[1][0]).answer, code)
        if isinstance(spec, GateRefusal):
            return [spec]
        check = spec
        if value_of(checked(spec, solution.text, opened=solution.opened)) != 1.0:
            return [GateRefusal("the tests do not pass", code[:300])]
    said = [*user(problem), spoken(solution.answer, solution.thinking)]
    return [
        talk(name, "code", said, check=check, seed=seed.id, writer=model, language=task.language)
    ]


def python_problem(code: str) -> str:
    """Why a program is not a solution by its syntax tree; "" where it may be one."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError):
        return "does not parse"
    defined = [
        n
        for n in ast.walk(tree)
        if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    ]
    bodies = [n.body for n in defined]
    if not defined:
        return "defines nothing"
    if all(all(isinstance(s, ast.Pass) or _bare(s) for s in body) for body in bodies):
        return "an empty body"
    return ""


def _bare(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _tests(text: str, code: str) -> CheckSpec | GateRefusal:
    """The writer's assertions as the check of a function that the solution defines."""
    block = parsing.fenced(text, "python") or ""
    try:
        asserts = [s for s in ast.parse(block).body if isinstance(s, ast.Assert)]
        defined = [n.name for n in ast.parse(code).body if isinstance(n, ast.FunctionDef)]
    except (SyntaxError, ValueError, RecursionError):
        return GateRefusal("tests do not parse", block[:300])
    called = [
        name for name in defined
        if sum(any(isinstance(n, ast.Name) and n.id == name for n in ast.walk(a)) for a in asserts) >= _LEAST_TESTS
    ]  # fmt: skip
    if not called:
        return GateRefusal("too few tests that call the solution", block[:300])
    own = [
        a
        for a in asserts
        if any(isinstance(n, ast.Name) and n.id == called[0] for n in ast.walk(a))
    ]
    suffix = "\n".join(ast.unparse(a) for a in own)
    return CheckSpec("code", {"program_suffix": suffix, "function": called[0]})
