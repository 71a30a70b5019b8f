"""A running resource server of NeMo Gym as an environment: `type: "environments.adapters.gym:GymServer"`.

`rows` is one of Gym's own JSONL files: `responses_create_params` with the input and the tools, and beside it
what the server's `seed_session` and `verify` read. The server is started as Gym's documentation says; here
it is spoken to over HTTP, an episode a session.
"""

import json
import time
from collections.abc import Mapping
from typing import Any
from uuid import uuid4

import httpx

from environments.custom.worker import refused
from workbench.errors import one_line

# What a server says of arguments that it cannot read; anything else above 399 is its own fault.
_MODELS_FAULT = (400, 404, 422)


class GymServer:
    """A class as environments.custom plays them. url: of the resource server. wait_s: most seconds for one
    answer of it."""

    def __init__(self, *, url: str, wait_s: float = 60.0) -> None:
        self._http = httpx.Client(base_url=url.rstrip("/"), timeout=wait_s)
        self._url = url
        self._row: dict[str, Any] = {}
        self._output: list[dict[str, Any]] = []
        self._waiting: list[str] = []
        self._tools: set[str] = set()

    def task_of(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row of Gym's as a task: the messages, and the tools' documents."""
        asked = row["responses_create_params"]
        given = asked["input"]
        prompt = [{"role": "user", "content": given}] if isinstance(given, str) else given
        roles = {"developer": "system"}
        keys = ("name", "description", "parameters")
        return {
            **row,
            "prompt": [{**m, "role": roles.get(m["role"], m["role"])} for m in prompt],
            "tools": [{key: tool.get(key) for key in keys} for tool in asked.get("tools") or []],
        }

    def reset(self, task: Mapping[str, Any]) -> None:
        """Begin a session; cookies keep it."""
        self._row = {key: value for key, value in task.items() if key not in ("prompt", "tools")}
        self._output, self._waiting = [], []
        self._tools = {tool["name"] for tool in task["tools"]}
        self._post("/seed_session", self._row)

    def hear(self, reply: Any) -> None:
        """Take a reply down as Gym's response format has it."""
        if reply.answer or not reply.tool_calls:
            text = {"type": "output_text", "text": reply.answer, "annotations": []}
            self._output.append(
                {
                    "type": "message", "id": _id("msg"), "role": "assistant",
                    "status": "completed", "content": [text],
                }
            )  # fmt: skip
        for call in reply.tool_calls or []:
            id = _id("call")
            self._output.append(
                {
                    "type": "function_call", "call_id": id, "name": str(call.get("name")),
                    "arguments": json.dumps(call.get("arguments")),
                }
            )  # fmt: skip
            problem = refused(call, self._tools)
            if problem is None:
                self._waiting.append(id)
            else:  # it does not come to `call`
                self._answered(id, json.dumps(problem))

    def call(self, name: str, arguments: dict[str, Any]) -> str:
        """What the server's tool answers. Raises: ValueError where it cannot read the arguments."""
        response = self._send(f"/{name}", arguments)
        said = response.text
        self._answered(self._waiting.pop(0), said)
        if response.status_code in _MODELS_FAULT:
            raise ValueError(said)
        self._must_be_well(response)
        return said

    def verify(self) -> dict[str, Any]:
        """The server's reward for the session."""
        asked = self._row["responses_create_params"]
        response = {
            "id": _id("resp"), "created_at": time.time(), "model": "policy", "object": "response",
            "output": self._output, "parallel_tool_calls": True, "tool_choice": "auto",
            "tools": asked.get("tools") or [],
        }  # fmt: skip
        found = self._post("/verify", {**self._row, "response": response})
        return {"value": found["reward"]}

    def _answered(self, call_id: str, said: str) -> None:
        self._output.append({"type": "function_call_output", "call_id": call_id, "output": said})

    def _post(self, path: str, body: Mapping[str, Any]) -> Any:
        response = self._send(path, body)
        self._must_be_well(response)
        return response.json()

    def _send(self, path: str, body: Mapping[str, Any]) -> httpx.Response:
        try:
            return self._http.post(path, json=body)
        except httpx.HTTPError as error:
            raise RuntimeError(f"{self._url}{path} does not answer: {one_line(error)}") from None

    def _must_be_well(self, response: httpx.Response) -> None:
        if response.is_error:
            said = " ".join(response.text.split())[:200]
            raise RuntimeError(f"{response.request.url} said {response.status_code}: {said}")


def _id(kind: str) -> str:
    return f"{kind}_{uuid4().hex[:12]}"
