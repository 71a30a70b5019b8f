"""A served model: which one it is, when it was asked, and whether it kept its thinking budgets."""

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from budget.curves import budget_curves
from evals.benchmark import Benchmark, BenchmarkSampling
from evals.config import EvalsConfig
from evals.endpoint import EndpointResponder
from evals.models import Model
from evals.registry import BENCHMARKS
from evals.served import ProbedServer
from evals.sources import Data
from evals.store import SampleStore
from evals.sweep import sample_anew, sweep
from tests.judge_server import JudgeServer, Said, judge_server
from workbench.conversation import CheckSpec, Conversation
from workbench.served import ServedModel

ENTRY = {"id": "judge", "created": 17, "root": "/models/a", "max_model_len": 4096}
SUMS = [
    Conversation(f"s{n}", "d", [{"role": "user", "content": f"{n}+1"}], check=CheckSpec("math", str(n + 1)))
    for n in range(3)
]  # fmt: skip


@pytest.fixture(autouse=True)
def _sums(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Benchmark("sums", "sums", Data("here"), lambda _: SUMS, BenchmarkSampling(source="test"))
    monkeypatch.setitem(BENCHMARKS, "sums", made)


def _config(**more: Any) -> EvalsConfig:
    return EvalsConfig(kind="evals", benchmarks=["sums"], **more)


def _sweep(server: JudgeServer, run: Path, **more: Any) -> dict[str, Any]:
    results = sweep([Model("m", server.address)], _config(**more), out=run / "evals", seed=1)
    return results["m"][-1]


def _asked(server: JudgeServer) -> int:
    return sum("+1" in a["messages"][-1]["content"] for a in server.asked)


def _adds(asked: dict[str, Any]) -> Said:
    text = str(asked["messages"][-1]["content"])
    return Said(f"It is {int(text.partition('+')[0]) + 1}" if "+1" in text else "a probe")


def test_a_server_that_hangs_is_waited_for_by_its_own_model_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other_known = threading.Event()

    def look(client: Any, on: Any) -> ProbedServer:
        if client.model == "slow":
            assert other_known.wait(20)
        return ProbedServer({"id": client.model}, None, None)

    monkeypatch.setattr("evals.endpoint.look_at", look)
    how = {"thinking": "none", "endpoint": "http://127.0.0.1:9/v1"}
    slow, quick = (
        EndpointResponder("", ServedModel.read({**how, "model": name}, where="models"))
        for name in ("slow", "quick")
    )
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(lambda: slow.identity)
        try:
            known = pool.submit(lambda: quick.identity).result(10)
        finally:
            other_known.set()
        assert waiting.result(20) != known


def test_a_server_without_a_reply_is_probed_once() -> None:
    with judge_server(lambda asked: Said("", status=400)) as server:
        responder = EndpointResponder(server.address, mode_words=False)
        assert responder.served["probe_replies"] is None
        probes = {
            str(asked["messages"][-1]["content"]) for asked in server.asked if "messages" in asked
        }
    assert len(probes) == 1


@pytest.mark.parametrize(
    "change",
    [{"root": "/models/b"}, {"created": 18}, {"max_model_len": 8192}, {"owned_by": "else"}],
)
def test_another_entry_in_the_servers_list_is_another_model(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    with judge_server(_adds) as server:
        server.entry = dict(ENTRY)
        first = _sweep(server, tmp_path)
        assert (first["n"], _asked(server)) == (3, 3)
        assert first["served"]["entry"] == ENTRY
        assert _sweep(server, tmp_path)["metrics"] == first["metrics"]
        assert _asked(server) == 3
        server.entry |= change
        again = _sweep(server, tmp_path)
        assert _asked(server) == 6
        assert again["model_digest"] != first["model_digest"]
    aside = tmp_path / ".replaced" / "evals" / "m" / "sums" / "results.json"
    assert json.loads(aside.read_text())["model_digest"] == first["model_digest"]


def test_another_greedy_reply_is_another_model_and_the_earlier_one_is_found_again(
    tmp_path: Path,
) -> None:
    shift = 0

    def say(asked: dict[str, Any]) -> Said:
        said = _adds(asked)
        return said if "+1" in asked["messages"][-1]["content"] else Said(f"probe {shift}")

    with judge_server(say) as server:
        first = _sweep(server, tmp_path)["model_digest"]
        shift = 1
        second = _sweep(server, tmp_path)["model_digest"]
        shift = 0
        assert _sweep(server, tmp_path)["model_digest"] == first != second
        assert _asked(server) == 6


def test_a_list_that_tells_the_time_of_day_is_no_other_model(tmp_path: Path) -> None:
    """vLLM and llama.cpp give each request's own time as `created`."""
    with judge_server(_adds) as server:
        times = iter(range(1_000, 2_000))

        class Clock(dict[str, Any]):
            def items(self) -> Any:
                return {**ENTRY, "created": next(times)}.items()

        server.entry = Clock(ENTRY)
        first = _sweep(server, tmp_path)
        assert "created" not in first["served"]["entry"]
        _sweep(server, tmp_path)
        assert _asked(server) == 3


def test_a_server_that_tells_nothing_is_said_to(tmp_path: Path) -> None:
    def say(asked: dict[str, Any]) -> Said:
        return _adds(asked) if "+1" in asked["messages"][-1]["content"] else Said(status=400)

    with judge_server(say) as server:
        result = _sweep(server, tmp_path)
    assert "address and name alone" in result["served"]["known_by"]
    assert (result["n"], result["served"]["entry"]) == (3, None)


def test_replies_keep_when_they_were_made_and_fresh_takes_none_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = "2026-01-01T00:00:00Z"
    monkeypatch.setattr("evals.samples.utc_now", lambda: now)
    monkeypatch.setattr("evals.store.utc_now", lambda: now)
    with judge_server(_adds) as server:
        assert _sweep(server, tmp_path, limit=3)["sampled_at"] == {"first": now, "last": now}
        now = "2026-02-02T00:00:00Z"
        kept = _sweep(server, tmp_path)
        assert kept["sampled_at"]["last"] == "2026-01-01T00:00:00Z"
        sample_anew(tmp_path / "evals", ["m"], [_job()])
        assert (tmp_path / ".replaced" / "evals" / "m" / "sums" / "results.json").is_file()
        now = "2026-02-02T00:00:01Z"
        assert _sweep(server, tmp_path)["sampled_at"] == {"first": now, "last": now}
        assert _asked(server) == 6
        assert _sweep(server, tmp_path)["sampled_at"]["first"] == now
        assert _asked(server) == 6


def _job() -> Any:
    from evals.jobs import jobs_of

    (job,) = jobs_of(_config(), seed=1)
    return job


def _words(text: str) -> int:
    return len(text.split())


def _long_thinker(asked: dict[str, Any], *, keeps: Callable[[dict[str, Any]], int | None]) -> Said:
    """A server whose model thinks 600 words, unless `keeps` says how many."""
    text = str(asked["messages"][-1]["content"])
    if "+1" not in text:
        return Said("17 times 23", more={"reasoning_content": "so"})
    most = keeps(asked)
    trace = "w " * (600 if most is None else min(most, 600))
    answer = f"It is {int(text.partition('+')[0]) + 1}"
    usage = {"completion_tokens": _words(trace) + 3}
    return Said(answer, more={"reasoning_content": trace}, usage=usage)


def test_a_budget_that_nobody_keeps_is_a_failed_sample_and_no_point(tmp_path: Path) -> None:
    with judge_server(lambda asked: _long_thinker(asked, keeps=lambda _: None)) as server:
        result = _sweep(server, tmp_path, budgets=[8])
        assert _sweep(server, tmp_path, thinking=[], budgets=[8])["n"] == 0
    assert (result["budget"], result["n"], result["failed"]) == (8, 0, 3)
    (reason,) = result["failures"]
    assert "the server keeps no thinking budgets" in reason
    assert budget_curves(tmp_path / "evals") == []


def _refuses_a_senseless_budget(asked: dict[str, Any]) -> Said | None:
    """As our processor under vLLM does."""
    if (asked.get("vllm_xargs") or {}).get("thinking_budget") == -1:
        why = "thinking_budget -1: give a whole number of tokens, 0 or more"
        return Said(body=json.dumps({"error": {"message": why}}).encode(), status=400)
    return None


@pytest.mark.parametrize(("kept", "n"), [(True, 3), (False, 0)])
def test_our_processor_in_the_server_is_used_and_each_reply_is_counted(
    tmp_path: Path, kept: bool, n: int
) -> None:
    def say(asked: dict[str, Any]) -> Said:
        most = (asked.get("vllm_xargs") or {}).get("thinking_budget") if kept else None
        refused = _refuses_a_senseless_budget(asked)
        return refused or _long_thinker(asked, keeps=lambda _: most)

    with judge_server(say) as server:
        server.tokens = lambda asked: {"tokens": list(range(_words(str(asked.get("prompt")))))}
        result = _sweep(server, tmp_path, budgets=[8], thinking=["with"], thinking_grace=2)
    assert (result["n"], result["failed"]) == (n, 3 - n)
    rows = [
        json.loads(line)
        for line in (tmp_path / "evals/m/sums@8/samples.jsonl").read_text().splitlines()
    ]
    if kept:
        assert result["served"]["budgets"] == "our logits processor in the server"
        assert [(r["tokens"]["thinking"], r["adheres"], r["value"]) for r in rows] == [
            (8, True, 1.0)
        ] * 3
        (curve,) = budget_curves(tmp_path / "evals")
        assert [point.budget for point in curve.points] == [8, None]
    else:
        assert "thinking budget not kept: 600 tokens of 10 allowed" in rows[0]["why"]["reason"]
        assert budget_curves(tmp_path / "evals") == []


@pytest.mark.parametrize(
    ("usage", "why"),
    [
        ({"completion_tokens": None}, "the server counts no tokens"),
        ({"completion_tokens_details": {"reasoning_tokens": 0}}, "no count of its tokens"),
        ({"completion_tokens_details": {"reasoning_tokens": 600}}, "600 tokens of 10 allowed"),
        ({"completion_tokens_details": {"reasoning_tokens": 9}}, ""),
    ],
)
def test_what_a_server_counts_decides_whether_a_budget_was_kept(
    tmp_path: Path, usage: dict[str, Any], why: str
) -> None:
    def say(asked: dict[str, Any]) -> Said:
        said = _refuses_a_senseless_budget(asked) or _long_thinker(asked, keeps=lambda _: None)
        said.usage |= usage
        return said

    with judge_server(say) as server:
        result = _sweep(server, tmp_path, budgets=[8], thinking=[], thinking_grace=2)
    assert result["n"] == (0 if why else 3)
    assert why in next(iter(result["failures"]), "")


def test_vllms_own_budget_is_used_where_it_is_configured(tmp_path: Path) -> None:
    def say(asked: dict[str, Any]) -> Said:
        budget = asked.get("thinking_token_budget")
        if budget is not None and budget < 0:
            why = (
                b'{"error": {"message": "`thinking_token_budget` must be a non-negative integer"}}'
            )
            return Said(status=400, body=why)
        return _long_thinker(asked, keeps=lambda _: budget)

    with judge_server(say) as server:
        result = _sweep(server, tmp_path, budgets=[8])
    # 8 words of trace and 3 of answer are within budget and grace, so no count is needed.
    assert (result["n"], result["served"]["budgets"]) == (
        3,
        "the server's own thinking_token_budget",
    )


def _continues(asked: dict[str, Any], *, limits: bool = True, reopens: bool = False) -> Said:
    """A server of a model whose prompt opens the trace; it goes on with a final message."""
    last, going_on = asked["messages"][-1], asked.get("continue_final_message")
    words = sum(_words(m["content"]) for m in asked["messages"])
    usage = {"prompt_tokens": words + (0 if going_on else 5)}
    if going_on and "</think>" in last["content"]:
        number = int(asked["messages"][-2]["content"].partition("+")[0])
        text = f"It is {number + 1}"
        text = f"hm </think> {text}" if reopens else text
        return Said(text, usage=usage | {"completion_tokens": 3})
    if "+1" not in last["content"]:
        return Said("so </think> a probe", usage=usage)
    made = min(600, asked["max_tokens"]) if limits else 600
    return Said("w " * made, finish_reason="length", usage=usage | {"completion_tokens": made})


def test_two_calls_close_the_trace_at_the_budget(tmp_path: Path) -> None:
    with judge_server(_continues) as server:
        result = _sweep(server, tmp_path, budgets=[8], thinking=["with"], max_tokens=20)
    assert (result["n"], result["metrics"]["accuracy"]["value"]) == (3, 1.0)
    assert result["served"]["budgets"].startswith("two calls")
    assert result["tokens"] == {"thinking_mean": 8.0, "answer_mean": 3.0}
    asked = [
        a for a in server.asked if "+1" in a["messages"][0]["content"] and a["max_tokens"] < 20
    ]
    first, second = (a for a in asked if a["messages"][0]["content"] == "0+1")
    assert (first["max_tokens"], second["max_tokens"]) == (8, 12)
    assert (second["add_generation_prompt"], second["continue_final_message"]) == (False, True)
    turn = second["messages"][-1]
    assert turn == {"role": "assistant", "content": f"<think>\n{'w ' * 8}.\n</think>\n\n"}


@pytest.mark.parametrize(
    ("more", "why"),
    [({"limits": False}, "600 tokens of 8 allowed"), ({"reopens": True}, "opened a trace again")],
)
def test_two_calls_that_were_not_kept(tmp_path: Path, more: dict[str, Any], why: str) -> None:
    with judge_server(lambda asked: _continues(asked, **more)) as server:
        result = _sweep(server, tmp_path, budgets=[8], thinking=["with"], max_tokens=20)
    assert (result["n"], result["failed"]) == (0, 3)
    assert why in next(iter(result["failures"]))


@pytest.mark.parametrize(
    ("probe", "thinking", "value"),
    [
        (Said("hm </think> fine"), True, 0.0),  # the prompt opens the trace
        (Said("<think> hm </think> fine"), True, 1.0),  # the model does, and has not
        (Said("fine", more={"reasoning_content": "hm"}), True, 1.0),  # the server takes it out
        (Said("fine"), True, 1.0),  # there is none
        (Said("on and on", finish_reason="length"), True, 0.0),  # none can tell
        (Said("on and on", finish_reason="length"), False, 1.0),  # reasoning off
    ],
)
def test_a_reply_that_was_cut_inside_its_trace_is_no_answer(
    tmp_path: Path, probe: Said, thinking: bool, value: float
) -> None:
    def say(asked: dict[str, Any]) -> Said:
        text = asked["messages"][-1]["content"]
        if "+1" not in text:
            return probe
        return Said(f"It is {int(text[0]) + 1}", finish_reason="length")

    with judge_server(say) as server:
        result = _sweep(server, tmp_path, thinking=["with" if thinking else "without"])
    assert (result["n"], result["truncated"]) == (3, 3)
    assert result["metrics"]["accuracy"]["value"] == value


def test_a_template_that_a_server_spells_out_says_whether_it_opens_the_trace() -> None:
    cut = Said("on and on", finish_reason="length")
    with judge_server(lambda asked: cut) as server:
        opened = ["<s>", "As", "sistant", "Ċ", "<th", "ink", ">", "Ċ"]
        server.tokens = lambda asked: {"token_strs": opened}
        assert EndpointResponder(server.address).format.opens
        server.tokens = lambda asked: {"token_strs": [*opened, "</think>", "ĊĊ"]}
        assert not EndpointResponder(server.address).format.opens


def test_a_stage_that_is_run_fresh_samples_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from evals import stage
    from workbench.rundir import RunDir

    asked: list[Any] = []
    monkeypatch.setattr(stage, "_models", lambda *_: [Model("m", "place")])
    monkeypatch.setattr(stage, "sweep_models", lambda *_, **__: {})
    monkeypatch.setattr(stage, "sample_anew", lambda *args: asked.append(args))
    for fresh in (False, True):
        context: Any = SimpleNamespace(
            config=_config(), run=RunDir(tmp_path), seed=1, fresh=fresh, outputs={}, keep=None
        )
        stage.run(context)
    ((out, names, jobs),) = asked
    assert (out, names, [job.folder for job in jobs]) == (tmp_path / "evals", ["m"], ["sums"])


def test_what_was_asked_for_anew_stays_so_where_its_folder_was_set_aside(tmp_path: Path) -> None:
    """A fresh stage was killed: its folder went to .replaced, beside the older result."""
    row = {"key": "k", "value": 1.0, "sampled_at": "2026-01-01T00:00:00Z"}
    old, half, here = (tmp_path / name for name in ("old", "half", "here"))
    for folder in (old, half, here):
        folder.mkdir()
    (old / "samples.jsonl").write_text(json.dumps(row) + "\n")
    assert SampleStore(here, [old, half]).find({"k"}) == {"k": row}
    SampleStore(half).sample_anew()
    assert SampleStore(here, [old, half]).find({"k"}) == {}
    (here / "samples.jsonl").write_text(json.dumps(row) + "\n")
    assert SampleStore(here, [old, half]).find({"k"}) == {"k": row}
