"""NeMo Gym's resource server behind a transport of ours: what is written down for its verdict."""

import json
from typing import Any

import httpx
import pytest

from environments.adapters.gym import GymServer
from environments.custom import worker

ROW = {"responses_create_params": {"input": "Look.", "tools": [{"name": "look"}]}}


def test_outputs_belong_to_their_calls_where_some_were_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An unknown tool and arguments that are no object reach no server."""
    verified: list[dict[str, Any]] = []

    def serve(request: httpx.Request) -> httpx.Response:
        body = json.loads(request.content)
        if request.url.path == "/look":
            return httpx.Response(200, text=f"saw {body['at']}")
        if request.url.path == "/verify":
            verified.append(body)
        return httpx.Response(200, json={"reward": 1.0})

    made = GymServer(url="http://gym")
    made._http = httpx.Client(base_url="http://gym", transport=httpx.MockTransport(serve))
    made.reset(made.task_of(ROW))
    monkeypatch.setattr(worker, "_play", worker._Play(made, {}, {"look"}, 1000))
    for calls in (
        [("gone", {}), ("look", {"at": 1}), ("look", "2"), ("look", {"at": 3})],
        [("look", {"at": 4})],
    ):
        said = [{"name": name, "arguments": arguments} for name, arguments in calls]
        worker.step({"text": "", "answer": "", "tool_calls": said})
    assert worker.verify()["value"] == 1.0
    output = verified[0]["response"]["output"]
    asked = {o["call_id"]: o["arguments"] for o in output if o["type"] == "function_call"}
    answers = {
        asked[o["call_id"]]: o["output"] for o in output if o["type"] == "function_call_output"
    }
    assert answers == {
        "{}": '{"error": "there is no tool \'gone\'"}',
        '{"at": 1}': "saw 1",
        '"2"': '{"error": "arguments must be an object"}',
        '{"at": 3}': "saw 3",
        '{"at": 4}': "saw 4",
    }
