"""Rows are looked at before anything is sampled: each bad one is named, or left out and counted."""

import json
from pathlib import Path
from typing import Any

import pytest

from data_mix.config import JsonlSource, ParquetSource
from environments.protocol import Task
from rl.config import GrpoConfig
from rl.inputs import check_grpo, check_reward_model
from rl.reward_model.config import RewardModelConfig
from rl.rows import Rules, good_tasks, misplaced, take_rows, too_long, warnings_of
from workbench.errors import UserError
from workbench.identity import must_be_own, row_id

MATH = {"kind": "math", "reference": "4"}


def row(identity: Any = "q", *, asks: Any = "2 + 2 = ?", **changes: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": asks}] if isinstance(asks, str) else asks
    return {"id": identity, "domain": "x", "messages": messages, "check": MATH} | changes


def source(folder: Path, rows: list[Any], name: str = "p.jsonl") -> JsonlSource:
    """Good rows around the given ones, which begin on line 3."""
    good = [row("good-1"), row("good-2")]
    lines = [r if isinstance(r, str) else json.dumps(r) for r in [*good, *rows]]
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return JsonlSource(type="jsonl", path=str(folder / name), form="conversation")


def checked(check: Any) -> dict[str, Any]:
    return row(check=check)


def without(key: str) -> dict[str, Any]:
    return {k: v for k, v in row().items() if k != key}


PART = {"kind": "math", "reference": "4"}
# What is wrong with a row -> the row, the reason it is counted under, words of its line.
BAD: dict[str, tuple[Any, str, str]] = {
    "no JSON": ("{", "unreadable", "is not JSON"),
    "no messages": (without("messages"), "unreadable", "KeyError: 'messages'"),
    "a null id": (row(None), "unreadable", "id is null, neither text nor a whole number"),
    "a blank id": (row(" "), "unreadable", "id is ' '"),
    "an id that is a list": (row(["a"]), "unreadable", "id is ['a']"),
    "an id twice": (row("good-2"), "id", "id 'good-2' is also that of"),
    "options null": (checked(MATH | {"options": None}), "unreadable", "check.options is null"),
    "kind null": (checked(MATH | {"kind": None}), "unreadable", "check.kind is null"),
    "no reference": (checked({"kind": "math"}), "unreadable", "reference"),
    "reference null": (checked(MATH | {"reference": None}), "check", "reference of its math check is null"),
    "no check": (without("check"), "check", "it has no check"),
    "unknown kind": (checked(MATH | {"kind": "maths"}), "check", "did you mean 'math'"),
    "unknown option": (checked(MATH | {"options": {"numbr": True}}), "check", "did you mean 'number'"),
    "an option that is none": (
        checked({"kind": "choice", "reference": "B", "options": {"num_choices": "4"}}), "check",
        "option num_choices of its choice check is '4'; it must be a valid integer"),
    "a letter too far": (checked({"kind": "choice", "reference": "E"}), "check", "one letter of A-D"),
    "no plain number": (checked(MATH | {"reference": "x", "options": {"number": True}}), "check",
                        "is not a plain number"),
    "an option lacking": (checked({"kind": "judged-match", "reference": {"question": "", "answer": ""}}),
                          "check", "needs the option 'judge'"),
    "a tool that is not offered": (
        checked({"kind": "tools", "reference": [{"name": "c", "arguments": {}}],
                 "options": {"tools": [{"name": "a"}, {"name": "b"}]}}), "check",
        "gold call 'c' is not among the tools"),
    "no calls": (checked({"kind": "tools", "reference": None}), "check", "tools check is null"),
    "a part that is none": (checked({"kind": "composite", "reference": [PART, {**PART, "kind": "mth", "name": "b"}]}),
                            "check", "unknown kind of check 'mth'"),
    "a part without reference": (checked({"kind": "composite", "reference": [{**PART, "reference": None}]}),
                                 "check", "math check is null"),
    "a string that all contain": (checked({"kind": "contains", "reference": ["e", " "]}), "check", "an empty string"),
    "half a character": (row(asks="a \ud800"), "messages", "a lone surrogate"),
    "an empty prompt": (row(asks=" \n"), "messages", "a user message is empty"),
    "nothing asked": (row(asks=[]), "messages", "there is no user message"),
    "a role of its own": (row(asks=[{"role": "human", "content": "?"}]), "messages", "message role 'human'"),
    "the system later": (row(asks=[{"role": "user", "content": "a"}, {"role": "system", "content": "b"}]),
                         "messages", "after the first place"),
}  # fmt: skip
DEEP: dict[str, tuple[Any, str, str]] = {
    "a reference that math-verify cannot read": (
        checked({"kind": "math", "reference": "\\text{}"}), "check", "cannot read the reference"),
    "an instruction that does not exist": (
        checked({"kind": "instructions", "reference": [{"instruction_id": "a:b", "kwargs": {}}]}),
        "check", "unknown instruction 'a:b'"),
}  # fmt: skip


def rules(**changes: Any) -> Rules:
    return Rules(**{"checked": True, "skip_bad": False} | changes)


@pytest.mark.parametrize("what", [*BAD, *DEEP])
def test_a_bad_row_is_named_or_left_out_and_counted(what: str, tmp_path: Path) -> None:
    bad, reason, says = (BAD | DEEP)[what]
    given = source(tmp_path, [bad, row("last")])
    with pytest.raises(UserError) as raised:
        take_rows(given, 4, rules(), name="prompts", seed=1)
    line = str(raised.value)
    assert says in line and "p.jsonl, line 3" in line and "skip_bad: true" in line
    assert "\n" not in line and (reason == "unreadable" or "row '" in line)
    if isinstance(bad, dict) and isinstance(bad.get("id"), str):
        assert repr(bad["id"]) in line
    left, account = take_rows(given, 4, rules(skip_bad=True), name="prompts", seed=1)
    assert {c.id for c in left} == {"good-1", "good-2", "last"}
    assert (account["rows"], account["kept"], account["left_out"]) == (4, 3, {reason: 1})
    (warning,) = warnings_of({"prompts": account})
    assert warning.startswith(f"prompts: 1 of 4 rows left out (skip_bad; {reason} 1): ")


@pytest.mark.parametrize("what", BAD)
def test_it_is_found_before_the_run_begins(what: str, tmp_path: Path) -> None:
    bad, _, says = BAD[what]
    prompts = source(tmp_path, [bad]).model_dump()
    held_out = source(tmp_path, [], "h.jsonl").model_dump()
    kinds: list[tuple[str, Any, Any]] = [
        ("grpo", GrpoConfig.read, check_grpo),
        ("reward_model", RewardModelConfig.read, check_reward_model),
    ]
    for kind, read, look in kinds:
        stage = {"kind": kind, "needs": ["sft"], "prompts": prompts, "held_out": held_out}
        with pytest.raises(UserError, match=r"^prompts: .*p\.jsonl, line 3") as raised:
            look(read(stage, where="x"))
        assert says in str(raised.value)
        lines = look(read(stage | {"skip_bad": True}, where="x"))
        assert lines[0].startswith("prompts: 3 of 3 rows looked at; skip_bad leaves out 1 (")
        assert lines[1] == "held_out: 2 of 2 rows looked at"


def test_the_first_row_may_be_the_bad_one_and_more_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    rows = ["[]", json.dumps(row("a")), json.dumps(row("a")), json.dumps(row("a", check=None))]
    path.write_text("\n".join(rows), encoding="utf-8")
    given = JsonlSource(type="jsonl", path=str(path), form="conversation")
    with pytest.raises(
        UserError, match=r"line 1 is not a JSON object but list; 2 more are bad\. Mend"
    ):
        take_rows(given, 4, rules(), name="prompts", seed=1)
    left, account = take_rows(given, 4, rules(skip_bad=True), name="prompts", seed=1)
    assert len(left) == 1 and account["left_out"] == {"unreadable": 1, "check": 1, "id": 1}
    # A row that is left out takes no id from another, and nothing left is an error all the same.
    path.write_text("\n".join(["[]", json.dumps(row(None))]), encoding="utf-8")
    with pytest.raises(UserError, match="prompts: all 2 are bad; the first: .*line 1"):
        take_rows(given, 2, rules(skip_bad=True), name="prompts", seed=1)


def test_where_no_check_decides_none_is_needed_but_one_that_is_there_must_be_one(
    tmp_path: Path,
) -> None:
    given = source(tmp_path, [without("check")])
    assert len(take_rows(given, 3, rules(checked=False), name="prompts", seed=1)[0]) == 3
    given = source(tmp_path, [checked({"kind": "maths", "reference": "4"})])
    with pytest.raises(UserError, match="did you mean 'math'"):
        take_rows(given, 3, rules(checked=False), name="prompts", seed=1)


def test_a_prompt_without_room_for_a_reply_is_named(tmp_path: Path) -> None:
    assert too_long(96, 32, 128) == ""
    assert "97 tokens, which with max_tokens 32 is more than" in too_long(97, 32, 128)
    given = source(tmp_path, [row("long", asks="a" * 97)])
    fitting = rules(fits=lambda c: too_long(len(c.messages[0]["content"]), 32, 128))
    with pytest.raises(UserError, match=r"row 'long' \(.*line 3\): its prompt has 97 tokens"):
        take_rows(given, 3, fitting, name="prompts", seed=1)
    tasks = [Task(f"t{n}", "x", [], [], {}) for n in range(3)]
    with pytest.raises(UserError, match=r"tasks: row 't1' \(task 2\): too much"):
        good_tasks(tasks, lambda t: "too much" * (t.id == "t1"), skip_bad=False, name="tasks")
    good, account = good_tasks(
        tasks, lambda t: "too much" * (t.id == "t1"), skip_bad=True, name="tasks"
    )
    assert [t.id for t in good] == ["t0", "t2"] and account["left_out"] == {"prompt": 1}
    with pytest.raises(UserError, match=r"tasks: row 2: id 't0' is also that of row 1"):
        good_tasks([tasks[0], tasks[0]], lambda t: "", skip_bad=True, name="tasks")


def test_rows_without_ids_are_known_by_their_places(tmp_path: Path) -> None:
    given = source(tmp_path, [without("id"), without("id")])
    left, _ = take_rows(given, 4, rules(), name="prompts", seed=1)
    ids = sorted(c.id for c in left)
    assert ids[:2] == ["good-1", "good-2"] and len(set(ids)) == 4
    assert ids[2].endswith("p.jsonl, line 3") and ids[3].endswith("p.jsonl, line 4")


def test_a_number_and_its_text_are_one_id() -> None:
    assert row_id({"id": 0}, where="w") == "0" and row_id({}, where="w") == "w"
    wrongs: list[Any] = [None, "", True, 1.5, {}]
    for wrong in wrongs:
        with pytest.raises(UserError, match="neither text nor a whole number"):
            row_id({"id": wrong}, where="w")
    must_be_own(["a", "b"], what="x")
    with pytest.raises(UserError, match=r"^x: row 3: id '1' is also that of row 1; give"):
        must_be_own([row_id({"id": i}, where="") for i in (1, 2, "1")], what="x")


def test_a_parquet_file_is_looked_at_alike(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, ids in (("a", ["1", "2"]), ("b", ["3", "1"])):
        table = pa.Table.from_pylist([row(i) for i in ids])
        pq.write_table(table, tmp_path / f"{name}.parquet")
    given = ParquetSource(type="parquet", path=str(tmp_path / "*.parquet"), form="conversation")
    with pytest.raises(UserError, match=r"row '1' \(.*b\.parquet, row 1\): .*a\.parquet, row 0;"):
        take_rows(given, 4, rules(), name="prompts", seed=1)


@pytest.mark.parametrize(
    ("roles", "says"),
    [
        ("user", ""), ("system user", ""), ("user assistant user", ""),
        ("user assistant tool", ""), ("user assistant tool tool", ""), ("user user", ""),
        ("system", "no user"), ("user tool", "follows no call"), ("user assistant", "ends with"),
        ("user assistant assistant user", "follow one another"),
    ],
)  # fmt: skip
def test_roles_in_order(roles: str, says: str) -> None:
    found = misplaced([{"role": role, "content": "a"} for role in roles.split()])
    assert (says in found) if says else found == ""


def test_a_checker_that_dies_is_no_bad_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import reward.options
    from reward.verdict import failed

    monkeypatch.setattr(reward.options, "check", lambda *args, **options: failed("worker died"))
    given = source(tmp_path, [checked({"kind": "math", "reference": "\\frac{1}{2}"})])
    left, account = take_rows(given, 3, rules(skip_bad=True), name="prompts", seed=1)
    assert len(left) == 3 and "left_out" not in account
