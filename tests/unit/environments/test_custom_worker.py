"""What a user's class may look like, in one process: schemas, replies, rewards, and what is refused."""

from pathlib import Path
from typing import Any

import pytest

from environments.custom import worker
from environments.custom.tools import BadTool, tools_of

LAMP = '''
from typing import Literal
class Lamp:
    done = False
    def __init__(self, most: int = 9): self.most = most
    def reset(self, task): self.level, self.task = 0, task
    def dim(self, room: Literal["hall", "attic"], by: int = 1, why: str | None = None) -> str:
        """Make a room darker.

        Slowly.

        Args:
            room: which one
            by (int): how much
        """
        if by > self.most: raise ValueError("too much")
        self.level -= by
        return {"level": self.level}
    async def wait(self) -> None: ...
    def broken(self): return {}["x"]
    def odd(self): return object()
    def unread(self): return __import__("json").loads("{")
    def long(self): return "x" * 300
    def off(self): self.done = True
    def verify(self): return self.level == self.task["goal"]
'''


def begun(folder: Path, text: str, name: str, task: dict[str, Any], **options: Any) -> None:
    path = folder / f"{name}.py"
    path.write_text(text)
    target = [str(path), name, str(folder)]
    found = worker.describe(target)
    assert "problem" not in found, found
    worker.begin(target, options, task, [tool["name"] for tool in found["tools"]], 200)


def said(text: str) -> dict[str, Any]:
    return {"text": text, "answer": text, "tool_calls": None}


def called(name: str, **arguments: Any) -> str:
    calls = [{"name": name, "arguments": arguments}]
    (message,) = worker.step({"text": "", "answer": "", "tool_calls": calls})["messages"]
    assert message["role"] == "tool"
    return str(message["content"])


def test_a_tools_schema_is_its_signature_and_docstring(tmp_path: Path) -> None:
    (tmp_path / "Lamp.py").write_text(LAMP)
    found = worker.describe([str(tmp_path / "Lamp.py"), "Lamp", str(tmp_path)])
    assert [tool["name"] for tool in found["tools"]] == [
        "dim", "wait", "broken", "odd", "unread", "long", "off"
    ]  # fmt: skip
    assert found["tools"][0] == {
        "name": "dim",
        "description": "Make a room darker. Slowly.",
        "parameters": {
            "type": "object",
            "properties": {
                "room": {"description": "which one", "enum": ["hall", "attic"], "type": "string"},
                "by": {"default": 1, "description": "how much", "type": "integer"},
                "why": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            },
            "required": ["room"],
        },
    }
    assert found["options"] == ["most"] and not found["has_tasks"]


def test_what_the_model_did_wrong_is_told_to_it(tmp_path: Path) -> None:
    begun(tmp_path, LAMP, "Lamp", {"goal": -3}, most=3)
    assert called("dim", room="hall") == '{"level": -1}'
    assert called("wait") == "ok"
    for reply, says in (
        (called("dim", room="cellar"), "input should be 'hall' or 'attic'"),
        (called("dim", room="hall", by="2"), "by: input should be a valid integer"),
        (called("dim"), "room: field required"),
        (called("dim", room="hall", much=2), "much: extra inputs are not permitted"),
        (called("dim", room="hall", by=4), "too much"),
        (called("verify"), "there is no tool 'verify'"),
        (called("_levels"), "there is no tool"),
    ):
        assert reply.startswith('{"error": "') and says in reply
    assert called("long") == f"{'x' * 200} ... (300 characters in all)"
    assert worker.verify()["value"] == 0.0
    called("dim", room="attic", by=2)
    assert worker.verify() == {"value": 1.0, "status": "ok", "parts": {}}
    assert worker.step(said("Done."))["done"]


TYPES = """
import dataclasses, datetime, enum, functools
class Colour(enum.Enum):
    RED = "red"
@dataclasses.dataclass
class Place:
    x: int
class Types:
    def reset(self): pass
    def paint(self, colour: Colour) -> str: return colour.name
    def on(self, day: datetime.date) -> str: return str(day.year)
    def pair(self, two: tuple[int, str]) -> str: return str(two)
    def many(self, of: set[int]) -> str: return str(sorted(of))
    def go(self, to: Place) -> str: return str(to.x)
    @staticmethod
    def join(left: str, right: str) -> str: return left + right
    @classmethod
    def named(cls, suffix: str) -> str: return cls.__name__ + suffix
    @functools.cache
    def kept(self, x: int) -> str: return str(x)
    @property
    def level(self): return 3
    def verify(self): return 1
"""


def test_arguments_are_read_as_json_and_every_method_has_its_own(tmp_path: Path) -> None:
    begun(tmp_path, TYPES, "Types", {})
    assert called("paint", colour="red") == "RED"
    assert called("on", day="2026-02-01") == "2026"
    assert called("pair", two=[1, "a"]) == "(1, 'a')"
    assert called("many", of=[2, 1]) == "[1, 2]"
    assert called("go", to={"x": 3}) == "3"
    assert called("join", left="a", right="b") == "ab"
    assert called("named", suffix="!") == "Types!"
    assert called("kept", x=2) == "2"
    for reply, says in (
        (called("paint", colour="blue"), "colour: input should be 'red'"),
        (called("on", day="soon"), "day: input should be a valid date"),
        (called("pair", two=["1", "a"]), "two.0: input should be a valid integer"),
        (called("kept", x=2.0), "x: input should be a valid integer"),
        (called("join", left="a"), "right: field required"),
        (called("join", left="\ud800", right=""), "arguments: invalid json"),
        (called("level"), "there is no tool 'level'"),
    ):
        assert reply.startswith('{"error": "') and says in reply


@pytest.mark.parametrize(
    ("tool", "says"),
    [
        ("broken", "tool broken: KeyError: 'x'"),
        ("odd", "tool odd returned object"),
        ("unread", "tool unread: JSONDecodeError"),  # a ValueError by its class alone
    ],
)
def test_a_fault_of_the_tool_is_no_answer(tmp_path: Path, tool: str, says: str) -> None:
    begun(tmp_path, LAMP, "Lamp", {"goal": 0})
    with pytest.raises(worker.EnvironmentBroke, match=says):
        called(tool)


def test_a_tool_may_end_the_episode(tmp_path: Path) -> None:
    begun(tmp_path, LAMP, "Lamp", {"goal": 0})
    calls = [{"name": "off", "arguments": {}}]
    assert worker.step({"text": "", "answer": "", "tool_calls": calls})["done"]


TALK = """
import random
class Talk:
    def reset(self, secret, *, tries=3): self.secret, self.left, self.drawn = secret, tries, random.random()
    def step(self, reply):
        self.left -= 1
        right = reply.answer == self.secret
        return {"content": "no" if not right else None, "reward": 1.0 if right else -0.25,
                "done": self.left == 0}
"""


def test_turns_may_be_paid_each(tmp_path: Path) -> None:
    begun(tmp_path, TALK, "Talk", {"secret": "b", "prompt": "Guess."})
    drawn = worker._play.made.drawn  # type: ignore[union-attr]
    assert worker.step(said("a")) == {
        "messages": [{"role": "user", "content": "no"}], "done": False, "reward": -0.25
    }  # fmt: skip
    assert worker.step(said("b")) == {"messages": [], "done": True, "reward": 1.0}
    assert worker.verify() == {
        "value": 0.75, "status": "ok", "parts": {"turn_rewards": [-0.25, 1.0]}
    }  # fmt: skip
    begun(tmp_path, TALK, "Talk", {"secret": "b", "prompt": "Guess."})
    assert worker._play.made.drawn == drawn  # type: ignore[union-attr]
    assert worker.step(said("x"))["reward"] == -0.25
    more = TALK.replace("Talk", "Judged") + "    def verify(self): return 0.5\n"
    begun(tmp_path, more, "Judged", {"secret": "b"})
    worker.step(said("a"))
    assert worker.verify()["value"] == 0.25
    with pytest.raises(worker.EnvironmentBroke, match="reset asks for 'secret'.*it has prompt"):
        begun(tmp_path, TALK, "Talk", {"prompt": "Guess."})


@pytest.mark.parametrize(
    ("returned", "says"),
    [
        ("3.5", "step returned float 3.5"),
        ("('a', 1)", "give .content, reward, done."),
        ("{'obs': 'a'}", "step returned obs"),
        ("{'content': 'a', 'reward': 'much'}", "str 'much'; it must return a number"),
        ("{'content': 'a', 'reward': float('nan')}", "nan, which is not a number"),
    ],
)
def test_a_step_of_another_kind_is_named(tmp_path: Path, returned: str, says: str) -> None:
    body = f"class T:\n    def reset(self): pass\n    def step(self, reply): return {returned}\n"
    begun(tmp_path, body, "T", {})
    with pytest.raises(worker.EnvironmentBroke, match=says):
        worker.step(said("a"))


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ("def C(): pass", "not a class"),
        ("class C:\n    def verify(self): return 1", "no method reset"),
        ("class C:\n    def reset(self): pass\n    def verify(self): return 1", "neither tools"),
        ("class C:\n    def reset(self): pass\n    def go(self): pass", "nothing judges"),
        ("class C:\n    def reset(self): pass\n    def go(self, x): pass", "'x' has no type"),
        ("class C:\n    def reset(self): pass\n    def go(self, *x: int): pass", "name each"),
        ("class C:\n    def reset(self): pass\n    def go(self, x: object.__class__): pass",
         "a type that JSON has not"),
        ("class C:\n    def reset(self): pass\n    def go(self, x: 'Lost'): pass", "'Lost'"),
    ],
)  # fmt: skip
def test_a_class_that_is_no_environment_says_why(tmp_path: Path, body: str, says: str) -> None:
    (tmp_path / "C.py").write_text(body)
    assert says in worker.describe([str(tmp_path / "C.py"), "C", str(tmp_path)])["problem"]


def test_a_verdict_of_another_kind_is_none(tmp_path: Path) -> None:
    body = "class V:\n    def reset(self): pass\n    def go(self): pass\n    def verify(self): return {}"
    begun(tmp_path, body, "V", {})
    assert worker.verify()["error"].startswith("verify: it returned NoneType")


def test_inherited_tools_count_and_untyped_ones_are_refused() -> None:
    class Base:
        def one(self, x: int) -> str:
            return str(x)

    class More(Base):
        def two(self) -> str:
            return ""

    assert list(tools_of(More)) == ["one", "two"]
    with pytest.raises(BadTool, match="has no type"):
        tools_of(type("Bad", (), {"go": lambda self, x: x}))
