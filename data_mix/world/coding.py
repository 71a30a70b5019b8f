"""Small functions from a list of operations, and lines to print; checked by running the code."""

from random import Random

from data_mix.world.problem import Problem
from workbench.conversation import CheckSpec

# (wording, expression on `x`). Constants are one digit, so that writing the code is copying.
_UNARY = (("double it", "{x} * 2"), ("square it", "{x} ** 2"), ("negate it", "-{x}"))
_NAMES = ("f", "g", "h", "run", "calc", "step")
_WORDS = ("cat", "dog", "sun", "red", "sea", "tree", "bird", "fish", "moon", "rain")
_TEST_INPUTS = (0, 1, 2, 5, -3, 10)


def _draw_op(rng: Random) -> tuple[str, str]:
    kind = rng.randrange(4)
    number = rng.randint(2, 9)
    if kind == 0:
        return f"add {number}", f"{{x}} + {number}"
    if kind == 1:
        return f"subtract {number}", f"{{x}} - {number}"
    if kind == 2:
        return f"multiply by {number}", f"{{x}} * {number}"
    return rng.choice(_UNARY)


def _compose(rng: Random) -> Problem:
    name = rng.choice(_NAMES)
    ops = [_draw_op(rng) for _ in range(rng.choices((1, 2, 3), weights=(3, 5, 2))[0])]
    expression, lines = "x", []
    for wording, pattern in ops:
        inner = expression if expression == "x" else f"({expression})"
        expression = pattern.format(x=inner)
        lines.append(f"{wording}: {expression}")
    described = ", then ".join(wording for wording, _ in ops)
    code = f"def {name}(x):\n    return {expression}"
    # The expression is ours, made of +, -, *, ** and x: evaluating it here is the reference.
    tests = [[[x], eval(expression, {"__builtins__": {}}, {"x": x})] for x in _TEST_INPUTS]
    return Problem(
        key=f"function:{name}:{described}",
        prompt=rng.choice((f"Write {name}(x): {described}.", f"Code {name}(x) to {described}.")),
        trace="\n".join(lines),
        answer=f"```python\n{code}\n```",
        check=CheckSpec("code", {"function": name, "tests": tests}),
    )


def _print_words(rng: Random) -> Problem:
    words = [rng.choice(_WORDS) for _ in range(rng.randint(2, 4))]
    listed = ", then ".join(words)
    code = "\n".join(f'print("{word}")' for word in words)
    return Problem(
        key=f"print:{listed}",
        prompt=f"Write code that prints {listed}.",
        trace=f"Lines: {len(words)}",
        answer=f"```python\n{code}\n```",
        check=CheckSpec("code", {"expected_output": "\n".join(words) + "\n"}),
    )


def propose(rng: Random, split: str) -> Problem:
    """A function to write (4 in 5) or lines to print (1 in 5)."""
    return _compose(rng) if rng.random() < 0.8 else _print_words(rng)
