"""The recipe's `models`: how each is asked, several at once, and what they cost."""

import argparse
import io
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from evals.command import SweepCommand
from evals.console import table
from evals.endpoint import EndpointResponder
from evals.models import Model, resolve_models
from evals.switches import find_switch
from tests.judge_server import Said, judge_server
from workbench.errors import UserError
from workbench.graph.dag import config_digest
from workbench.recipe import build
from workbench.rundir import RunDir
from workbench.served import ServedModel


def _recipe(models: dict[str, Any], **stage: Any) -> dict[str, Any]:
    body = {
        "kind": "evals",
        "benchmarks": ["mini-math"],
        "models": list(models),
        "limit": 2,
        **stage,
    }
    return {"name": "ends", "models": models, "stages": {"evals": body}}


def _args(tmp_path: Path, recipe: dict[str, Any], **more: Any) -> argparse.Namespace:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    given = {
        "recipe": str(path), "overrides": [f"runs_dir={tmp_path / 'runs'}"], "run": None, "budgets": None,
        "models": ",".join(recipe["models"]), "benchmarks": "mini-math", "samples": None, "limit": 2,
    }  # fmt: skip
    return argparse.Namespace(**(given | more))


def _swept(tmp_path: Path, recipe: dict[str, Any], **more: Any) -> tuple[dict[str, Any], str]:
    command, out = SweepCommand.build(_args(tmp_path, recipe, **more)), io.StringIO()
    command.run(out, lambda root: [])
    found = {
        path.parent.parent.name + "/" + path.parent.name: json.loads(path.read_text())
        for path in (tmp_path / "runs" / "ends" / "evals").glob("*/*/results.json")
    }
    return found, out.getvalue()


def _questions(asked: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Requests that are not probes: the protocol's limit of tokens tells them."""
    limits = ("max_tokens", "max_completion_tokens")
    return [a for a in asked if any(a.get(limit) == 256 for limit in limits)]


def test_everything_that_a_model_wants_is_sent_and_what_it_refuses_is_not(tmp_path: Path) -> None:
    with judge_server(lambda asked: Said("4")) as server:
        url, _, name = server.address.partition("#")
        wants = {
            "endpoint": url, "model": name, "omit": ["seed", "top_p"], "token_limit": "max_completion_tokens",
            "sampling": {"temperature": 0.7, "top_k": 20, "min_p": 0.05, "presence_penalty": 1.5},
            "reasoning_effort": "high", "chat_template_kwargs": {"a": 1}, "body": {"service_tier": "flex"},
        }  # fmt: skip
        found, _ = _swept(tmp_path, _recipe({"gpt": wants}))
    asked = _questions(server.asked)
    assert len(asked) == 2
    for one in asked:
        said = {k: v for k, v in one.items() if k not in ("messages", "model")}
        assert said == {
            "max_completion_tokens": 256, "temperature": 0.7, "top_k": 20, "min_p": 0.05,
            "presence_penalty": 1.5, "reasoning_effort": "high", "chat_template_kwargs": {"a": 1},
            "service_tier": "flex",
        }  # fmt: skip
        assert [m["role"] for m in one["messages"]] == ["user"]
    result = found["gpt/mini-math"]
    assert (result["sampling"]["temperature"], result["sampling"]["top_k"]) == (0.7, 20)
    assert result["served"]["sampling"]["presence_penalty"] == 1.5


def test_a_models_own_sampling_is_what_its_result_was_made_with(tmp_path: Path) -> None:
    """The second sweep was refused: made with temperature 0.2, not 0.0."""
    with judge_server(lambda asked: Said("4")) as server:
        recipe = _recipe({"m": {"endpoint": server.address, "sampling": {"temperature": 0.2}}})
        _swept(tmp_path, recipe)
        found, _ = _swept(tmp_path, recipe, limit=3)
        assert (found["m/mini-math"]["sampling"]["temperature"], found["m/mini-math"]["n"]) == (
            0.2,
            3,
        )
        recipe["models"]["m"]["sampling"] = {"temperature": 0.4}
        with pytest.raises(UserError, match=r"temperature 0.2, not 0.4"):
            _swept(tmp_path, recipe)


@pytest.mark.parametrize(
    ("thinking", "on", "off"),
    [
        ("system", {"word": "/think"}, {"word": "/no_think"}),
        ("template", {"kwargs": {"enable_thinking": True}}, {"kwargs": {"enable_thinking": False}}),
        ("effort", {"effort": "high"}, {"effort": "none"}),
        ("none", {"effort": "high"}, {"effort": "high"}),
        (
            {"off": {"reasoning_effort": "minimal", "body": {"think": False}}},
            {"effort": "high"},
            {"effort": "minimal", "think": False},
        ),
    ],
)
def test_how_reasoning_is_switched(
    tmp_path: Path, thinking: Any, on: dict[str, Any], off: dict[str, Any]
) -> None:
    effort = {"reasoning_effort": "high"} if {**on, **off}.get("effort") else {}
    with judge_server(lambda asked: Said("4")) as server:
        model = {"endpoint": server.address, "thinking": thinking, **effort}
        _swept(tmp_path, _recipe({"m": model}, thinking=["with", "without"]))
    seen: list[dict[str, Any]] = []
    for asked in _questions(server.asked):
        first = asked["messages"][0]
        one = {
            "word": first["content"] if first["role"] == "system" else None,
            "kwargs": asked.get("chat_template_kwargs"),
            "effort": asked.get("reasoning_effort"),
            "think": asked.get("think"),
        }
        seen.append({key: value for key, value in one.items() if value is not None})
    assert sorted(map(str, seen)) == sorted(map(str, [on, on, off, off]))


@pytest.mark.parametrize(
    ("said", "failed"),
    [
        (Said("4", more={"reasoning_content": "two and two"}), 2),
        (Said("4", usage={"completion_tokens_details": {"reasoning_tokens": 9}}), 2),
        (Said("hm, two and two</think>4"), 2),
        (Said("<think>two and", finish_reason="length"), 2),
        (Said("<think>\n\n</think>\n\n4"), 0),  # an empty trace is none
        (Said("4"), 0),
    ],
)
def test_a_model_that_thinks_although_asked_not_to_is_no_result_without_thinking(
    tmp_path: Path, said: Said, failed: int
) -> None:
    with judge_server(lambda asked: said) as server:
        recipe = _recipe({"m": {"endpoint": server.address}}, thinking=["without"])
        found, text = _swept(tmp_path, recipe)
    result = found["m/mini-math@0"]
    assert (result["failed"], result["n"]) == (failed, 2 - failed)
    assert ("the model thought" in text) == bool(failed)
    assert ("models.NAME.thinking" in text) == bool(failed)


def _spelled(end_by: dict[str, str]) -> Any:
    """A /tokenize of a template: end_by: word or keyword argument -> what the prompt then ends with."""

    def tokens(asked: dict[str, Any]) -> dict[str, Any]:
        words = [str(m["content"]) for m in asked["messages"] if m["role"] == "system"]
        words += [str(v) for v in (asked.get("chat_template_kwargs") or {}).values()]
        end = next((end_by[w] for w in words if w in end_by), "")
        user = asked["messages"][-1]["content"]
        return {"token_strs": [*words, user, "<assistant>", end]}

    return tokens


@pytest.mark.parametrize(
    ("ends", "way"),
    [
        ({"/think": "<think>\n", "/no_think": "<think></think>"}, "system"),
        ({"False": "<think>\n\n</think>\n\n"}, "template"),
        ({}, "none"),
    ],
)
def test_a_template_shows_how_it_is_switched(ends: dict[str, str], way: str) -> None:
    with judge_server(lambda asked: Said("x")) as server:
        server.tokens = _spelled(ends)
        responder = EndpointResponder(server.address)
        assert find_switch(responder._client) == way
        assert responder.served["thinking"] == f"auto: {way}"


def test_a_server_that_spells_nothing_is_sent_no_word_unless_its_card_says_so() -> None:
    with judge_server(lambda asked: Said("x")) as server:
        url = server.address.partition("#")[0]
        for name, way in (("gpt-oss-20b", "none"), ("nvidia/NVIDIA-Nemotron-Nano-9B-v2", "system")):
            assert find_switch(EndpointResponder(f"{url}#{name}")._client) == way


def test_two_places_are_asked_at_once_and_cost_what_they_cost(tmp_path: Path) -> None:
    """Each server waits until the other one is asked: one after another would never end."""
    both = threading.Barrier(2, timeout=20)
    passed: dict[str, bool] = {}

    def meeting(name: str, text: str) -> Any:
        def say(asked: dict[str, Any]) -> Said:
            if _questions([asked]) and name not in passed:
                passed[name] = True
                both.wait()
            return Said(text, usage={"prompt_tokens": 100, "completion_tokens": 50})

        return say

    with judge_server(meeting("a", "4")) as one, judge_server(meeting("b", "5")) as two:
        models = {
            "here": {
                "endpoint": one.address,
                "parallel": 1,
                "price": {"prompt": 3, "completion": 15},
            },
            "there": {"endpoint": two.address, "parallel": 1},
        }
        found, text = _swept(tmp_path, _recipe(models))
    assert {path: r["n"] for path, r in found.items()} == {
        "here/mini-math": 2,
        "there/mini-math": 2,
    }
    # 2 x (100 x 3 + 50 x 15) / 1e6
    assert found["here/mini-math"]["cost"] == {
        "sum": pytest.approx(0.0021), "currency": "USD", "prompt_tokens": 200, "completion_tokens": 100,
    }  # fmt: skip
    rows = [line.split() for line in text.splitlines() if line.startswith(("here ", "there "))]
    assert [row[-2:] for row in rows] == [["0.0021", "USD"], ["0", "-"]]
    pairs = json.loads((tmp_path / "runs/ends/evals/comparisons.json").read_text())
    assert [(p["against"], p["model"]) for p in pairs] == [("here", "there")]


def test_a_table_without_prices_has_no_column_of_them() -> None:
    assert "cost" not in table({})


def test_a_refused_key_is_named_with_the_way_to_leave_it_out(tmp_path: Path) -> None:
    refusal = json.dumps({"error": {"message": "Unsupported parameter: 'seed'"}}).encode()
    with judge_server(lambda asked: Said(status=400, body=refusal)) as server:
        _, text = _swept(tmp_path, _recipe({"m": {"endpoint": server.address}}))
    assert "leave out what it refuses by models.NAME.omit: [seed]" in text


def test_another_model_that_answers_is_said(tmp_path: Path) -> None:
    names = iter(f"m-{number % 2}" for number in range(100))

    def say(asked: dict[str, Any]) -> Said:
        whole = {
            "model": next(names) if _questions([asked]) else "m-0",
            "choices": [{"message": {"content": "4"}, "finish_reason": "stop"}],
        }
        return Said(body=json.dumps(whole).encode())

    with judge_server(say) as server:
        found, text = _swept(tmp_path, _recipe({"m": {"endpoint": server.address}}))
    assert found["m/mini-math"]["served"]["answered_by"] == {"m-0": 1, "m-1": 1}
    assert "m: more than one model answered" in text


def test_headers_are_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ServedModel(endpoint="http://h/v1#m", headers={"x-key": "a $SECRET_OF_TEST b"})
    with pytest.raises(UserError, match="SECRET_OF_TEST"):
        model.sent_headers()
    monkeypatch.setenv("SECRET_OF_TEST", "17")
    assert model.sent_headers() == {"x-key": "a 17 b"}
    assert "17" not in model.model_dump_json()


def test_what_can_change_a_reply_makes_the_stage_old_and_pace_does_not() -> None:
    def made(**more: Any) -> str:
        return config_digest(build(_recipe({"m": {"endpoint": "http://h/v1#m", **more}})), "evals")

    first = made()
    assert made(parallel=3, price={"prompt": 1, "completion": 1}, retries=9) == first
    assert len({first, made(thinking="none"), made(model="n"), made(sampling={"top_k": 5})}) == 4


@pytest.mark.parametrize(
    ("models", "why"),
    [
        ({"m": {"endpoint": "h/v1"}}, "write it as http://host:port/v1"),
        ({"m": {"endpoint": "http://h/v1"}}, "give the model's name on the server"),
        ({"evals": {"endpoint": "http://h/v1#m"}}, "give it another one"),
        ({"m": {"endpoint": "http://h/v1#m", "top_k": 4}}, "unknown key 'models.m.top_k'"),
        ({"m": {"endpoint": "http://h/v1#m", "thinking": "on"}}, "models.m.thinking"),
    ],
)
def test_bad_entries_are_one_line(models: dict[str, Any], why: str) -> None:
    with pytest.raises(UserError) as refused:
        build(_recipe(models))
    assert why in str(refused.value) and "\n" not in str(refused.value)


def test_names_of_ones_own(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    served = {"gpt": ServedModel(endpoint="http://h/v1", model="gpt-9", parallel=2)}
    words = ["gpt", "a=http://h/v1#m", "b=http://g/v1#m", "again=gpt"]
    found = resolve_models(words, run, ["sft"], served)
    assert [(m.name, m.place) for m in found] == [
        ("gpt", "http://h/v1#gpt-9"), ("a", "http://h/v1#m"), ("b", "http://g/v1#m"),
        ("again", "http://h/v1#gpt-9"),
    ]  # fmt: skip
    assert found[3].how == served["gpt"]
    with pytest.raises(UserError, match=r"--models m-2=PLACE"):
        resolve_models(["http://h/v1#m", "http://g/v1#m"], run, ["sft"])
    with pytest.raises(UserError, match="the name is a file's"):
        resolve_models(["sft=http://h/v1#m"], run, ["sft"])


def test_a_hub_id_is_taken_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    commit = "0" * 40
    repository = tmp_path / "models--org--Tiny-1B"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    (snapshot / "config.json").write_text("{}")
    (snapshot / "model.safetensors").write_text("")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    (found,) = resolve_models(["org/Tiny-1B"], RunDir(tmp_path), [])
    assert found == Model("Tiny-1B", str(snapshot))


_LIGHT = """
import runpy, sys
class Heavy:
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top in {"torch", "vllm", "ray", "transformers", "trl", "deepspeed", "datasets", "accelerate"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=top)
sys.meta_path.insert(0, Heavy())
sys.argv = ["sweep.py", *sys.argv[1:]]
sys.path.insert(0, ".")
runpy.run_path("scripts/sweep.py", run_name="__main__")
"""


def test_a_sweep_over_endpoints_imports_nothing_heavy_and_needs_no_recipe(tmp_path: Path) -> None:
    with judge_server(lambda asked: Said("The answer is \\boxed{4}.")) as server:
        command = [
            sys.executable, "-c", _LIGHT, "--models", f"a={server.address},b={server.address}",
            "--benchmarks", "mini-math,mini-tool_calling", "--limit", "2", "--run", "light",
            "--set", f"runs_dir={tmp_path}",
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert {path.parent.parent.name for path in tmp_path.glob("light/evals/*/*/results.json")} == {
        "a",
        "b",
    }
    assert (tmp_path / "light" / "report.html").is_file()
