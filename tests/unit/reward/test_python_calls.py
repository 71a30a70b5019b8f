"""Python calls as BFCL's own decoder reads them, without its eval."""

import json
import subprocess
import sys
import time
from typing import Any

import pytest

from evals.tasks.bfcl_prompt_worker import official
from reward import check
from reward.python_calls import SIZE_LIMIT, json_able, python_calls

DOCUMENT = {
    "name": "f",
    "parameters": {
        "type": "dict",
        "properties": {
            "a": {"type": "float"},
            "b": {"type": "array", "items": {"type": "integer"}},
        },
        "required": ["a"],
    },
}


def _official(text: str) -> Any:
    """[{name: arguments}]; None where the package's decoder raises, as its runner takes it."""
    try:
        return official().default_decode_ast_prompting(text)
    except Exception:  # noqa: BLE001 - the official runner catches all
        return None


def _ours(text: str) -> Any:
    calls = python_calls(text)
    return None if calls is None else [{c["name"]: c["arguments"]} for c in calls]


# What models write, right and wrong.
AWKWARD = [
    "[f(a=1)]", "[f(a=1), g.h(b='x')]", "f(a=1)", "f(a=1), g()", "[f(a=1)", "f(a=1)]", "[[f(a=1)]]",
    "[f(), [g()]]", "[f()], [g()]", "'f(a=1)'", "['f(a=1)', 'g()']", "[f(a='it''s')]",
    "```[f(a=1)]```", "```\n[f(a=1)]\n```", "```python\n[f(a=1)]\n```", "`f(a=1)`", "``` f() ```",
    "\n\n [f(a=1)] \n", "[ f(a=1)]", "[f(a=1) ]", "\t[f(a=1)]", "[f(a=1),\n g(b=2)]", "[\nf(a=1)\n]",
    "[f(\n  a=1,\n  b=2\n)]", "[f(a=1),]", "[f(a=1,)]", "[f(a=1);g()]", "f(a=1) # note", "f(a=1)\ng()",
    "Sure: [f(a=1)]", "[f(a=1)] is the call", "f(a=1) and g()", "No function can be used.", "None", "",
    "[", "[]", "[[]]", "()", "{}", "[()]", "''", "```", "1", "'x'", "f", "f.g", "[f]", "[f, g()]",
    "{f(), g()}", "(f(), g())", "(f(),)", "{f(): 1}", "f(a=1) + g()", "not f()", "-f()", "await f()",
    "f()()", "f(a=1)(b=2)", "a.b.c.d(x=1)", "a[0].b(x=1)", "'x'.join(a=1)", "(lambda: 1)(a=1)",
    "[f(1, 2)]", "[f(1, b=2)]", "[f(a=1, 2)]", "[f(*x, a=1)]", "[f(**x)]", "[f(**{'a': 1})]",
    "[f(a=1, a=2)]", "[f(a=None)]", "[f(None=1)]", "[f(True=1)]", "[f(class=1)]", "[f(a-b=1)]",
    "[f(a=true, b=false, c=null)]", "[f(a=True, b=False, c=None)]", "[f(a=red)]", "[f(a=Unit.C)]",
    "[f(a=-1)]", "[f(a=- 1.5)]", "[f(a=+1)]", "[f(a=~5)]", "[f(a=not True)]", "[f(a=not 0)]",
    "[f(a=--1)]", "[f(a=-x)]", "[f(a=-'x')]", "[f(a=-None)]", "[f(a=-(1+2))]", "[f(a=-True)]",
    "[f(a=-1j)]", "[f(a=-...)]", "[f(a=-x.y)]", "[f(a=-x[0])]", "[f(a=-(x := 1))]", "[f(a=-[1])]",
    "[f(a=...)]", "[f(a=1e999)]", "[f(a=-1e999)]", "[f(a=0x1f)]", "[f(a=1_000)]", "[f(a=007)]",
    "[f(a=2 + 3)]", "[f(a=60 * 2)]", "[f(a=1 / 3)]", "[f(a=7 // 2)]", "[f(a=-7 % 3)]", "[f(a=2 ** 10)]",
    "[f(a=2 ** -1)]", "[f(a=-5 * 2)]", "[f(a=2 * -3)]", "[f(a=2 - +3)]", "[f(a=1 + ~2)]",
    "[f(a=1 + (not 2))]", "[f(a=1 << 4)]", "[f(a=16 >> 2)]", "[f(a=6 & 3 | 8 ^ 1)]", "[f(a=1 << -1)]",
    "[f(a=1 / 0)]", "[f(a=1 % 0)]", "[f(a=10 ** 400 / 3)]", "[f(a=2.0 ** 9999)]", "[f(a=0 ** -1)]",
    "[f(a=True + 1)]", "[f(a=1j * 1j)]", "[f(a=(-8) ** 0.5)]", "[f(a=1 @ 2)]", "[f(a=None + 1)]",
    "[f(a=... + 1)]", "[f(a=2023-10-12)]", "[f(a=2023-01-05)]", "[f(a=10:30)]", "[f(a=5%)]",
    "[f(a='a' + 'b')]", "[f(a='a' 'b')]", "[f(a='-' * 5)]", "[f(a=-2 * 'x')]", "[f(a='a' + 1)]",
    "[f(a=b'a' + b'b')]", "[f(a='a' - 'b')]", "[f(a=[1] + [2])]", "[f(a=[0] * 3)]", "[f(a=(1,) + (2,))]",
    "[f(a=[[1]] * 2)]", "[f(a=[1 + 1, 'x' * 2])]", "[f(a=[1] + 2)]", "[f(a=[x] + [1])]", "[f(a=x + 1)]",
    "[f(a=1 + x)]", "[f(a=1 < 2)]", "[f(a=1 and 2)]", "[f(a=1 if x else 2)]", "[f(a=f'{x}')]",
    "[f(a=[i for i in x])]", "[f(a={1, 2})]", "[f(a={})]", "[f(a={'b': 1, 2: [3]})]",
    "[f(a={'b': {'c': -1}})]", "[f(a={x: y})]", "[f(a={**x})]", "[f(a={[1]: 2})]", "[f(a={(1,): 2})]",
    "[f(a={g(): 1})]", "[f(a={1: 2, 1: 3})]", "[f(a=(1, 2))]", "[f(a=(1))]", "[f(a=())]", "[f(a=[*x])]",
    "[f(a=[1, [2, (3, {'d': None})]])]", "[f(a=lambda: 1)]", "[f(a=lambda x: x)]", "[f(a=x[0])]",
    "[f(a=x['k'])]", "[f(a=x[1:2])]", "[f(a=[1, 2][0])]", "[f(a=x[0][1].y)]", "[f(a=x[0].y)]",
    "[f(a=g())]", "[f(a=g(1, 2))]", "[f(a=g(b=1))]", "[f(a=g(1, b=h(c=2)))]", "[f(a=x.g(b=1))]",
    "[f(a=datetime.date(2020, 1, 1))]", "[f(a=[g(b=1), g()])]", "[f(a=g(h(c=1)))]", "[f(a=g(**x))]",
    "[f(a='\\d')]", "[f(a='\\n')]", "[f(a='a\nb')]", "[f(a='''a\nb''')]", '[f(a="it\'s")]', "[f(a=r'\\d')]",
    "[f(a=u'x')]", "[f(a=b'x')]", "[f(a='é', ñ=1)]", "[f(a='\ud800')]", "[f(a='\x00')]", "[f(a=“x”)]",
    "[f(a=$5)]", "[f(a=5 km)]", "[f(a = 1)]", "[f (a=1)]", "[f(a:1)]", '[f(a="x)]', "[f(a=(1]", "[f(a==1)]",
    '{"name": "f", "arguments": {"a": 1}}', '[{"name": "f", "arguments": {"a": 1}}]', '{"f": {"a": 1}}',
    "<TOOLCALL>[f(a=1)]</TOOLCALL>", "print(f(a=1))", "x = f(a=1)", "return f(a=1)", "def f(): pass",
    "import os", "yield f()", "f(a=1) if x else g()", "*f()", "[*f()]", "[f() for f in x]", "f(x for x in y)",
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::SyntaxWarning")
def test_awkward_answers_read_as_the_official_decoder_reads_them() -> None:
    read = 0
    for text in AWKWARD:
        theirs = _official(text)
        assert repr(_ours(text)) == repr(theirs), text
        read += theirs is not None
    assert 90 < read < len(AWKWARD) - 90  # both kinds are there


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[f(a=len('abc') + 1)]", 4),
        ("[f(a=__import__('math').floor(2.5) + 0)]", 2),
        ("[f(a='%3d' % 5)]", "  5"),
        ("[f(a=f'x' + 'y')]", "xy"),
        ("[f(a=__name__ + '!')]", "bfcl_eval.model_handler.utils!"),
        ("[f(a=[i for i in (1, 2)] + [3])]", [1, 2, 3]),
    ],
)
def test_what_the_official_decoder_evaluates_is_no_call_here(text: str, value: Any) -> None:
    assert _official(text) == [{"f": {"a": value}}]
    assert python_calls(text) is None


# The package's decoder would fill the memory with the first seven, or not come back.
BOMBS = [
    "[f(a=9**9**9)]", "[f(a=2**99999999999)]", "[f(a=1<<99999999999)]", "[f(a='x'*99999999999)]",
    "[f(a=[0]*9999*9999*9999)]", "[f(a=[[[0]*9999]*9999]*9999)]", "[f(a='%99999999999d' % 1)]",
    f"[f(a={'9' * 5000})]",
    *(f"[f(a={piece * 50_000}" for piece in ("(", "[", "{", "[{1:", "f(a=", "-", "1+", "1**", "a.", "not ")),
    *(f"[f(a={piece * 50_000}1)]" for piece in ("1+", "1**", "-", "lambda:", "1 if 1 else ", "2*")),
    "f(a=" + "[" * 50_000 + "]" * 50_000 + ")", "f(a=x" + "[0]" * 50_000 + ")", "f" + "()" * 50_000,
    "f" + ".f" * 50_000 + "()", "f(a=" * 50_000 + ")" * 50_000, "f(), " * 50_000, "f(a=1 " * 50_000,
    "f(a=[0]*1900" + "+[]" * 90 + ")", "f(a=" + "'x'+" * 900 + "'x')", "f(a=[0]*1900), " * 3_000,
]  # fmt: skip
_READ = """
import json, sys
from reward.python_calls import json_able, python_calls
for text in json.load(sys.stdin):
    print(len(json.dumps(json_able(python_calls(text)))))
"""


def test_bombs_do_not_go_off() -> None:
    """In a process of its own: neither a hang nor an overflowing stack may take the tests along."""
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", _READ],
        input=json.dumps(BOMBS),
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    sizes = [int(line) for line in done.stdout.split()]
    assert len(sizes) == len(BOMBS) and time.monotonic() - started < 20
    assert sizes[:8] == [len("null")] * 8
    assert max(sizes) < 20_000_000  # the last one's 5.7 million zeros


def test_the_limit_is_where_it_says() -> None:
    assert python_calls(f"f(a='x' * {SIZE_LIMIT})") is not None
    assert python_calls(f"f(a='x' * {SIZE_LIMIT + 1})") is None
    assert python_calls(f"f(a=1 << {SIZE_LIMIT - 2})") is None
    assert python_calls("f(a=10 ** 300)") == [{"name": "f", "arguments": {"a": 10**300}}]
    assert python_calls("f(a=10 ** 600)") is None
    assert python_calls(f"f(a=[0] * {SIZE_LIMIT // 2} * 3)") is None
    assert python_calls(f"f(a=[0, 0, 0, 0] * {SIZE_LIMIT // 4})") is None
    assert python_calls("f(a=1 ** 99999999999)") == [{"name": "f", "arguments": {"a": 1}}]


def _check(text: str, gold: Any = 1.5, **options: Any) -> Any:
    options = {"category": "simple", "syntax": "python", **options}
    reference = [{"f": {"a": [gold], "b": [[1, 2], ""]}}]
    return check("tools", text, reference, tools=[DOCUMENT], answer_format="possible", **options)


def test_the_tools_check_reads_python() -> None:
    assert _check("<think>f(a=9)</think>\n[f(a=3 / 2, b=[1, 1 + 1])]").value == 1.0
    assert _check("[f(a=1.5)]").parts == {"calls": [{"name": "f", "arguments": {"a": 1.5}}]}
    assert (_check("[f(a=2.5)]").status, _check("[f(a=2.5)]").value) == ("ok", 0.0)
    for unreadable in (
        "I would call [f(a=1.5)]",
        '<TOOLCALL>[{"name": "f", "arguments": {"a": 1.5}}]</TOOLCALL>',
        '[f(a=1.5)]\n<TOOLCALL>[{"name": "f", "arguments": {"a": 1.5}}]</TOOLCALL>',
        '[{"name": "f", "arguments": {"a": 1.5}}]',
        "()",
    ):
        assert _check(unreadable).status == "wrong_format", unreadable
        assert _check(unreadable, category="irrelevance").value == 1.0
        assert _check(unreadable, category="live_relevance").value == 0.0
    assert _check("[g()]", category="irrelevance").value == 0.0
    assert _check("[g()]", category="relevance").value == 1.0
    # Python is not JSON, and is asked for.
    assert _check("[f(a=1.5)]", syntax="json").status == "wrong_format"


def test_values_that_json_has_not_are_judged_and_shown() -> None:
    for text in (
        "[f(a=b'x', **c)]",
        "[f(a={(1, 2): b'x', 3: 1j})]",
        f"[f(a=0x{'f' * 9_000})]",
    ):
        verdict = _check(text)
        assert (verdict.status, verdict.value) == ("ok", 0.0), text
        assert json.loads(json.dumps(verdict.parts)) == verdict.parts
    assert json_able({(1,): [(b"x", None)], "k": True}) == {"(1,)": [["b'x'", None]], "k": True}


def test_a_number_that_no_float_holds_is_a_wrong_answer() -> None:
    """In either syntax: the checker turns whole numbers into floats, and this one overflows."""
    number = "9" * 400
    assert _check(f"[f(a={number})]").value == 0.0
    call = f'<TOOLCALL>[{{"name": "f", "arguments": {{"a": {number}}}}}]</TOOLCALL>'
    assert _check(call, syntax="json").value == 0.0
