"""A reward function of the user's own: what it is given, and what its failures become."""

import os
import random
import time
from pathlib import Path
from typing import Any

import pytest

from reward import check
from reward.plugin import FunctionConfig, ReplyToScore, check_config, describe, score_items
from reward.reply import read_reply
from workbench.content import ABSENT, Contents, places_read
from workbench.errors import UserError
from workbench.local_imports import imported_files

GIVEN = """
import json
def see(prompt, reply, reference, *, scale=1.0):
    from reward.verdict import Verdict
    seen = {"prompt": prompt, "messages": prompt.messages, "reply": reply, "answer": reply.answer,
            "thinking": reply.thinking, "calls": reply.tool_calls, "reference": reference}
    return Verdict(0.25 * scale, "ok", seen)
"""
MESSAGES = ({"role": "system", "content": "Be short."}, {"role": "user", "content": "2 + 2 = ?"})


def item(text: str, reference: Any = "4") -> ReplyToScore:
    from dataclasses import replace

    return ReplyToScore(replace(read_reply(text), text=text, prompt=MESSAGES), reference)


def written(folder: Path, text: str, name: str = "mine.py") -> str:
    (folder / name).write_text(text)
    return f"{folder / name}:f"


def test_it_sees_the_prompt_the_whole_reply_and_its_parts(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(GIVEN)
    config = FunctionConfig(path=f"{tmp_path}/mine.py:see", options={"scale": 2.0})
    check_config(config)
    text = "<think>two and two</think>It is 4."
    (verdict,) = score_items(config, [item(text)])
    assert (verdict.value, verdict.status) == (0.5, "ok")
    assert verdict.parts == {
        "prompt": "2 + 2 = ?", "messages": list(MESSAGES), "reply": text, "answer": "It is 4.",
        "thinking": "two and two", "calls": [], "reference": "4",
    }  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        "def f(prompt, reply, reference): return float(reference in reply)",
        "def f(question, answer, gold, **kwargs): return gold in answer",
        "def f(prompts, replies, references): return [float(g in r) for r, g in zip(replies, references)]",
        "async def f(prompt, reply, reference): return int(reference in reply)",
        # TRL's forms: conversational completions, its own data's column, extra keywords.
        "def f(completions, ground_truth, **kwargs):\n"
        "    return [float(g in c[0]['content']) for c, g in zip(completions, ground_truth)]",
        "def f(prompts, completions, answer, weight=1.0):\n"
        "    return [weight * (g in c[0]['content']) for c, g in zip(completions, answer)]",
        "import numpy as np\n"
        "def f(prompts, replies, references): return np.array([g in r for r, g in zip(replies, references)], float)",
        "import numpy as np\ndef f(p, r, g): return np.float32(g in r)",
        "def f(p, r, g): return {'value': float(g in r), 'why': 'found'}",
    ],
)
def test_every_form_scores_each_reply(tmp_path: Path, body: str) -> None:
    config = FunctionConfig(path=written(tmp_path, body))
    verdicts = score_items(config, [item("it is 4"), item("it is 5"), item("4 again")])
    assert [(v.value, v.status) for v in verdicts] == [(1.0, "ok"), (0.0, "ok"), (1.0, "ok")]


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ("def f(p, r, g): return float('nan')", "error", "nan"),
        ("def f(p, r, g): return float('-inf')", "error", "inf"),
        (
            "from reward import Verdict\ndef f(p, r, g): return Verdict(float('nan'), 'ok')",
            "error",
            "nan",
        ),
        (
            "from reward import Verdict\ndef f(p, r, g): return Verdict(True + 1e999, 'ok')",
            "error",
            "inf",
        ),
        ("def f(p, r, g): return 'great'", "error", "str 'great'"),
        ("def f(p, r, g): return None", "error", "NoneType"),
        ("def f(p, r, g): return [1.0]", "error", "list"),
        ("def f(p, r, g): raise KeyError('speed')", "error", "speed"),
        ("def f(p, r, g): exit()", "error", "died"),
        ("import os\ndef f(p, r, g): os._exit(3)", "error", "died"),
        ("import ctypes\ndef f(p, r, g): return ctypes.string_at(0)", "error", "died"),
        ("def f(p, r, g): return 10 ** 400", "error", ""),
        ("def f(p, r, g): return float(len(bytearray(8 << 30)))", "error", "MemoryError"),
        ("def f(p, r, g):\n    while True: pass", "timeout", "stopped after"),
        ("import time\ndef f(p, r, g): time.sleep(60)", "timeout", "stopped after"),
        ("def f(prompts, replies, references): return [1.0]", "error", "1 values for 2 replies"),
        ("def f(prompts, replies, references): return 'no'", "error", "must return a list"),
    ],
)
def test_a_failure_is_a_status_and_never_a_score(
    tmp_path: Path, body: str, status: str, says: str
) -> None:
    config = FunctionConfig(path=written(tmp_path, body), timeout_s=0.5)
    for verdict in score_items(config, [item("4"), item("5")]):
        assert (verdict.value, verdict.status) == (None, status)
        assert says in verdict.parts["reason"]


def test_importing_the_file_is_not_the_time_of_a_call(tmp_path: Path) -> None:
    """As where it imports torch or loads a model: each worker does once, and each call has its own time."""
    body = (
        "import time\nbegan = time.process_time()\nwhile time.process_time() - began < 1.0: pass\n"
        "def f(p, r, g):\n    while r == 'hang': pass\n    return 1.0"
    )
    config = FunctionConfig(path=written(tmp_path, body), timeout_s=0.5, workers=1)
    verdicts = score_items(config, [item("a"), item("b"), item("hang"), item("c")])
    assert [v.value for v in verdicts] == [1.0, 1.0, None, 1.0]
    assert verdicts[2].parts["reason"] == "stopped after 0.5 s"


def test_one_reply_that_breaks_it_leaves_the_others_scored(tmp_path: Path) -> None:
    body = "import os\ndef f(p, r, g):\n    if r == 'die': os._exit(1)\n    return 1.0 / int(r)"
    config = FunctionConfig(path=written(tmp_path, body))
    verdicts = score_items(config, [item("2"), item("die"), item("0"), item("4")])
    assert [v.value for v in verdicts] == [0.5, None, None, 0.25]


def test_a_flood_of_print_and_children_left_behind_do_no_harm(tmp_path: Path) -> None:
    left = tmp_path / "child"
    body = (
        "import os, time\n"
        "def f(p, r, g):\n"
        "    for _ in range(64): print('x' * (1 << 20))\n"
        "    child = os.fork()\n"
        "    if child == 0: time.sleep(300)\n"
        f"    open({str(left)!r}, 'w').write(str(child))\n"
        "    while True: pass\n"
    )
    config = FunctionConfig(path=written(tmp_path, body), timeout_s=1.0, workers=1)
    (verdict,) = score_items(config, [item("4")])
    assert verdict.status == "timeout"
    stat = Path("/proc") / left.read_text() / "stat"
    deadline = time.monotonic() + 10
    while lives(stat) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not lives(stat)


def test_what_it_does_to_its_process_stays_there(tmp_path: Path) -> None:
    """Environment, folder, generators, builtins and our own modules: this process and other functions keep
    theirs."""
    body = (
        "import builtins, os, random\n"
        "import numpy as np\n"
        "def f(p, r, g):\n"
        "    import reward.verdict, math\n"
        "    os.chdir('/'); os.environ.clear(); random.seed(0); np.random.seed(0)\n"
        "    reward.verdict.decided = None; math.isfinite = lambda x: False\n"
        "    builtins.float = lambda x: 7.0\n"
        "    return 1.0\n"
    )
    before = (Path.cwd(), dict(os.environ), random.getstate())
    score_items(FunctionConfig(path=written(tmp_path, body, "bad.py")), [item("4"), item("5")])
    assert (Path.cwd(), dict(os.environ), random.getstate()) == before
    good = FunctionConfig(path=written(tmp_path, "def f(p, r, g): return float(g in r) / 2"))
    assert [v.value for v in score_items(good, [item("4"), item("5")])] == [0.5, 0.0]
    assert check("math", r"\boxed{4}", "4").value == 1.0


def lives(stat: Path) -> bool:
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("mine.py", "write it as FILE.py:NAME"),
        ("none.py:f", "there is no file"),
        ("no_such_module:f", "No module named 'no_such_module'"),
    ],
)
def test_a_path_that_names_nothing_is_one_line(path: str, says: str) -> None:
    with pytest.raises(UserError) as caught:
        describe(path)
    assert says in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("def g(p, r, ref): return 1", "has no 'f'; it has g"),
        ("f = 3", "not a function"),
        ("def f(x): return 1", "it must take (prompt, reply, reference)"),
        ("def f(p, r, g, needed): return 1", "it must take (prompt, reply, reference)"),
        ("import not_there\ndef f(p, r, g): return 1", "not_there"),
        ("def f(p, r, g) return 1", "SyntaxError"),
        ("while True: pass", "stopped after"),
    ],
)
def test_a_function_that_cannot_be_called_is_found_before_anything_is_sampled(
    tmp_path: Path, body: str, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reward.plugin.LOAD_LIMIT_S", 2.0)
    monkeypatch.setattr("reward.line._LOAD_LIMIT_S", 2.0)
    with pytest.raises(UserError) as caught:
        check_config(FunctionConfig(path=written(tmp_path, body)))
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_an_option_that_it_does_not_take_names_the_nearest(tmp_path: Path) -> None:
    path = written(tmp_path, "def f(p, r, g, *, scale=1.0): return scale")
    with pytest.raises(UserError, match=r"scal.*scale"):
        check_config(FunctionConfig(path=path, options={"scal": 2}))


def test_it_is_a_kind_of_check_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.py").write_text(GIVEN)
    (tmp_path / "helper.py").write_text("BONUS = 0.5\n")
    (tmp_path / "uses.py").write_text("import helper\ndef f(p, r, g): return helper.BONUS\n")
    monkeypatch.chdir(tmp_path)
    verdict = check("mine.py:see", "<think>x</think>4", "4", scale=4.0, prompt=list(MESSAGES))
    assert verdict.value == 1.0 and verdict.parts["prompt"] == "2 + 2 = ?"
    assert check("uses.py:f", "4", None).value == 0.5
    spec = [{"kind": "uses.py:f", "reference": None}, {"kind": "math", "reference": "4"}]
    assert check("composite", r"\boxed{4}", spec).value == 0.75


def test_a_stage_runs_again_once_its_source_changed(tmp_path: Path) -> None:
    path = written(tmp_path, "def f(p, r, g): return 1.0")
    contents = Contents(tmp_path)
    (mark, value), *_ = places_read(FunctionConfig(path=path))
    first = contents.of(mark, value)
    assert first == contents.of(mark, value) and first[1] != ABSENT
    assert score_items(FunctionConfig(path=path), [item("4")])[0].value == 1.0
    written(tmp_path, "def f(p, r, g): return 0.5")
    assert contents.of(mark, value) != first
    assert contents.of(mark, "reward.verdict:failed")[1] != ABSENT
    assert contents.of(mark, "no_such.module:f")[1] == ABSENT


def test_what_its_file_imports_from_beside_it_counts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words").mkdir()
    files = {
        "mine.py": "import json, numpy\nfrom helper import K\ndef score(p, r, g): return K\n",
        "helper.py": "def late():\n    from words import short\nK = 1\n",
        "words/__init__.py": "from .rules import MOST\nfrom .. import outer\n",
        "words/short.py": "", "words/rules.py": "MOST = 3\nimport mine\n", "outer.py": "",
    }  # fmt: skip
    for name, text in {**files, "beside.py": ""}.items():
        (tmp_path / name).write_text(text)
    (mark, value), *_ = places_read(FunctionConfig(path="mine.py:score"))
    first = Contents(tmp_path).of(mark, value)[1]
    for name, text in files.items():
        (tmp_path / name).write_text(text + "# another line\n")
        assert Contents(tmp_path).of(mark, value)[1] != first, name
        (tmp_path / name).write_text(text)
        assert Contents(tmp_path).of(mark, value)[1] == first, name
    (tmp_path / "beside.py").write_text("x = 1\n")
    assert Contents(tmp_path).of(mark, value)[1] == first


def test_anneals_own_modules_count_by_their_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[3])
    assert imported_files(Path("reward/plugin.py")) == []


def test_a_function_without_options_says_that_none_is_allowed(tmp_path: Path) -> None:
    path = written(tmp_path, "def f(p, r, g): return 1.0")
    with pytest.raises(UserError, match="allowed: none$"):
        check_config(FunctionConfig(path=path, options={"most": 3}))
