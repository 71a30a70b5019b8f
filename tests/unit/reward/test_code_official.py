"""Right programs pass as the official programs have it: values by `==`, exits, fences of every kind."""

from decimal import Decimal
from fractions import Fraction
from typing import Any

import pytest

from reward import check
from reward.code import equal, last_program
from reward.fences import python_blocks
from reward.isolation.messages import decode, encode
from reward.reply import CheckedReply

SUM = {"function": "total", "tests": [[[[1, 2, 3]], 6], [[[5]], 5]]}
SUM_SUFFIX = {
    "function": "total",
    "program_suffix": "assert total([1, 2, 3]) == 6\nassert total([5]) == 5",
}
SUM_CONTEST = {"tests": [{"input": "[1, 2, 3]", "output": "6"}], "function": "total"}
TOTAL = "def total(xs):\n    return sum(xs)"


def _fenced(code: str) -> str:
    return f"```python\n{code}\n```"


@pytest.mark.parametrize(
    ("body", "right"),
    [
        ("import numpy as np\ndef total(xs): return np.sum(xs)", True),
        ("import numpy as np\ndef total(xs): return np.float64(np.sum(xs))", True),
        ("import numpy as np\ndef total(xs): return np.array(sum(xs))", True),
        ("from fractions import Fraction\ndef total(xs): return Fraction(2 * sum(xs), 2)", True),
        ("from decimal import Decimal\ndef total(xs): return Decimal(sum(xs))", True),
        ("def total(xs): return complex(sum(xs), 0)", True),
        ("import numpy as np\ndef total(xs): return np.sum(xs) + 1", False),
        ("from fractions import Fraction\ndef total(xs): return Fraction(13, 2)", False),
        ("from decimal import Decimal\ndef total(xs): return Decimal('6.0001')", False),
        ("def total(xs): return [sum(xs)]", False),
    ],
)
def test_a_value_is_equal_as_python_has_it(body: str, right: bool) -> None:
    for kind, reference in (("code", SUM), ("code", SUM_SUFFIX), ("contest", SUM_CONTEST)):
        found = check(kind, _fenced(body), reference)
        assert (found.value, found.status) == (float(right), "ok"), (kind, found)


def test_numpy_s_truth_value_is_one() -> None:
    tests = {"function": "even", "tests": [[[4], True], [[3], False]]}
    code = "import numpy as np\ndef even(x):\n    return np.equal(x % 2, 0)"
    assert check("code", _fenced(code), tests).value == 1.0
    suffix = {"function": "even", "program_suffix": "assert even(4) == True\nassert not even(3)"}
    assert check("code", _fenced(code), suffix).value == 1.0
    nested = {"function": "f", "tests": [[[2], {"a": [1, 2.5], "b": True}]]}
    code = (
        "import numpy as np\ndef f(x): return {'a': [np.int32(1), np.float64(2.5)], 'b': np.True_}"
    )
    assert check("code", _fenced(code), nested).value == 1.0


def test_packages_are_what_the_reference_says() -> None:
    code = "import numpy\n" + TOTAL
    assert check("code", _fenced(code), {**SUM, "packages": []}).value == 0.0
    assert check("code", _fenced(code), {**SUM, "packages": ["numpy"]}).value == 1.0
    printed = {"stdin": "", "expected_output": "6"}
    code = "import numpy as np\nprint(np.sum([1, 2, 3]))"
    assert check("code", _fenced(code), printed).value == 1.0


HOSTILE = [
    # A class that is equal to everything, in the clothes of each type that may leave.
    "from fractions import Fraction\nclass A(Fraction):\n    def __eq__(s, o): return True\n"
    "    __hash__ = None\ndef total(xs): return A(1, 3)",
    "from decimal import Decimal\nclass A(Decimal):\n    def __eq__(s, o): return True\n"
    "    __hash__ = None\ndef total(xs): return A('1')",
    "class A:\n    shape = ()\n    def item(s): return s\n    def __eq__(s, o): return True\n"
    "A.__module__ = 'numpy'\ndef total(xs): return A()",
    "class I(int): pass\nclass A:\n    shape = ()\n    def item(s): return I(0)\n"
    "A.__module__ = 'numpy'\nI.__module__ = 'builtins'\nI.__eq__ = lambda s, o: True\n"
    "def total(xs): return A()",
    "import numpy as np\nclass A(np.int64):\n    def __eq__(s, o): return True\n"
    "def total(xs): return A(0)",
    "import numpy as np\nclass A(np.ndarray):\n    def __eq__(s, o): return True\n"
    "def total(xs): return np.zeros(()).view(A)",
    "def total(xs): return {}.keys()",
]  # fmt: skip


@pytest.mark.parametrize("body", HOSTILE)
def test_an_overridden_equality_earns_nothing(body: str) -> None:
    for kind, reference in (("code", SUM), ("code", SUM_SUFFIX), ("contest", SUM_CONTEST)):
        assert check(kind, _fenced(body), reference).value == 0.0, kind


def test_what_comes_from_a_sandbox_costs_the_reader_little() -> None:
    value: Any
    for value in (Fraction(1, 3), Decimal("1.50"), Decimal("Infinity"), [Fraction(-7)]):
        assert decode(encode(value)) == value
    for bad in (
        {"f": ["1e999999999", 1]}, {"f": [1, 0]}, {"f": [1]}, {"f": [{"i": hex(3**10**5)}, 2]},
        {"m": "sNaN"}, {"m": "x"}, {"m": 5}, {"f": 5},
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"."):
            decode(bad)


@pytest.mark.parametrize(
    ("expected", "got", "same"),
    [
        (0.5, Fraction(1, 2), True),
        (0.1, Fraction(1, 10), False),  # so it is in Python
        (0.5, Decimal("0.5"), True),
        (0.1, Decimal("0.1"), False),
        (2, Decimal(2), True),
        (float("nan"), Decimal("NaN"), True),
        ([1], {1}, False),
        ("a", b"a", False),
        ({1: "x"}, {1.0: "x"}, True),
        (1, complex(1, 0), True),
    ],
)
def test_equality_of_other_numbers(expected: Any, got: Any, same: bool) -> None:
    assert equal(expected, got) is same


@pytest.mark.parametrize(
    "end", ["exit()", "quit()", "exit(0)", "import sys\nsys.exit()", "raise SystemExit"]
)
def test_a_program_may_end_by_exit(end: str) -> None:
    printed = {"stdin": "2\n", "expected_output": "4\n"}
    assert check("code", _fenced(f"print(int(input()) * 2)\n{end}"), printed).value == 1.0
    contest = {"tests": [{"input": "2", "output": "4"}]}
    assert check("contest", _fenced(f"print(int(input()) * 2)\n{end}"), contest).value == 1.0
    for reference in (SUM, SUM_SUFFIX):
        assert check("code", _fenced(f"{TOTAL}\n{end}"), reference).value == 1.0


@pytest.mark.parametrize("end", ["exit(1)", "sys.exit('no')", "raise ValueError"])
def test_a_program_that_ends_in_failure_fails(end: str) -> None:
    printed = {"stdin": "", "expected_output": "4\n"}
    assert check("code", _fenced(f"import sys\nprint(4)\n{end}"), printed).value == 0.0
    assert check("code", _fenced(f"import sys\n{TOTAL}\n{end}"), SUM).value == 0.0


def test_an_exit_before_the_function_is_no_program() -> None:
    for reference in (SUM, SUM_SUFFIX):
        assert check("code", _fenced(f"exit()\n{TOTAL}"), reference).value == 0.0
        assert check("code", _fenced("def total(xs): exit()"), reference).value == 0.0


REPLIES = {
    "crlf": f"Here:\n```python\n{TOTAL}\n```\n".replace("\n", "\r\n"),
    "cr only": f"```python\n{TOTAL}\n```".replace("\n", "\r"),
    "crlf, no fence": TOTAL.replace("\n", "\r\n"),
    "in a list": "1. So:\n   ```python\n   def total(xs):\n       return sum(xs)\n   ```\n2. Done.",
    "indented code": "```python\n    def total(xs):\n        return sum(xs)\n```",
    "fence alone indented": f"  ```python\n{TOTAL}\n  ```",
    "tabs": "\t```python\n\tdef total(xs):\n\t\treturn sum(xs)\n\t```",
    "title": f'```python title="f.py"\n{TOTAL}\n```',
    "attributes": f"```{{.python .numberLines}}\n{TOTAL}\n```",
    "path": f"```python:src/f.py\n{TOTAL}\n```",
    "capital": f"``` Python\n{TOTAL}\n```",
    "python3": f"```python3\n{TOTAL}\n```",
    "python 3.11": f"```python3.11\n{TOTAL}\n```",
    "py": f"```py\n{TOTAL}\n```",
    "tildes": f"~~~python\n{TOTAL}\n~~~",
    "four": f"````python\n{TOTAL}\n````",
    "no language": f"```\n{TOTAL}\n```",
    "closed in its last line": f"```python\n{TOTAL}```",
    "closed in its last line, another after": f"```python\n{TOTAL}```\nRun:\n```bash\nls\n```",
    "opened in a line of text": f"The code: ```python\n{TOTAL}\n```",
    "list marker": "- ```python\n  def total(xs):\n      return sum(xs)\n  ```",
    "shell after": f"```python\n{TOTAL}\n```\n```bash\npython f.py\n```",
    "output after": f"```python\n{TOTAL}\n```\nOutput:\n```\n6\n```",
    "use after": f"```python\n{TOTAL}\n```\n```python\nprint(total([1]))\n```",
    "two versions": "```python\ndef total(xs): return 0\n```\nBetter:\n" + _fenced(TOTAL),
    "fence in its docstring": "```python\ndef total(xs):\n    '''\n    ```python\n    total([1])\n    ```\n"
    "    '''\n    return sum(xs)\n```",
    "dot after the fence": f"```python\n{TOTAL}\n```.\nThat is all.",
    "no fence": TOTAL,
    "no fence, indented": "    def total(xs):\n        return sum(xs)",
    "json before": '```json\n{"a": 1}\n```\n' + _fenced(TOTAL),
}  # fmt: skip


@pytest.mark.parametrize("name", REPLIES)
def test_the_program_is_found_however_it_is_fenced(name: str) -> None:
    assert check("code", REPLIES[name], SUM).value == 1.0
    if "no fence" not in name:
        assert (
            check(
                "contest", REPLIES[name].replace(_fenced("print(total([1]))"), ""), SUM_CONTEST
            ).value
            == 1.0
        )


@pytest.mark.parametrize(
    "text",
    [
        f"```python\n{TOTAL}",  # cut
        f"```javascript\n{TOTAL}\n```",
        f"```text\n{TOTAL}\n```",
        "Use `total(xs)`.",
        "```total(xs)```",
    ],
)  # fmt: skip
def test_no_program_is_found(text: str) -> None:
    assert check("code", text, SUM).status == "wrong_format"


def test_the_body_of_a_function_completes_its_prompt_in_a_fence_too() -> None:
    reference = {**SUM_SUFFIX, "program_prefix": "def total(xs):\n    '''Their sum.'''\n"}
    for body in (
        "    return sum(xs)\n",
        "```python\n    return sum(xs)\n```",
        "\r\n    return sum(xs)\r\n",
    ):
        assert check("code", body, reference).value == 1.0


def test_blocks_are_told_from_text() -> None:
    text = "a ```b``` c\n```\nx = 1\n```\n~~~py\ny = 2\n~~~\n```text\nz\n```\n"
    assert [(b.code, b.tagged) for b in python_blocks(text)] == [
        ("x = 1\n", False),
        ("y = 2\n", True),
    ]
    assert last_program(CheckedReply(text, [])) == "y = 2\n"
    assert python_blocks("```python\n" * 5000) == []
