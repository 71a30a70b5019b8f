"""An OpenAI-compatible server whose replies a function of the request writes: a protocol double."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal


@dataclass
class Said:
    """One reply of the server. status other than 200: an HTTP error. text None: no content. more:
    further keys of the message (tool_calls, reasoning_content). usage: its counts. body: the whole
    body, as it is. drips: seconds before each piece of a body that is sent in 20 of them. stops:
    after 4 bytes the connection is closed, or kept and nothing more is sent."""

    text: Any = "fine"
    finish_reason: str | None = "stop"
    status: int = 200
    more: dict[str, Any] = field(default_factory=dict)
    usage: dict[str, Any] = field(default_factory=dict)
    body: bytes | None = None
    drips: float = 0.0
    stops: Literal["", "cut", "stalled"] = ""


@dataclass
class JudgeServer:
    """What was asked, and how many requests were open at once. entry: of the model's list; tokens: what
    /tokenize answers; None: the server has neither."""

    address: str = ""
    entry: dict[str, Any] | None = None
    tokens: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    asked: list[dict[str, Any]] = field(default_factory=list)
    most_open: int = 0
    _open: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def judge_server(say: Callable[[dict[str, Any]], Said]) -> Iterator[JudgeServer]:
    """Serve on a free port of this machine; `address` is as JudgeConfig.endpoint wants it."""
    state = JudgeServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if self.path == "/tokenize":
                return self._send(*_or_404(state.tokens and state.tokens(asked)))
            with state._lock:
                state.asked.append(asked)
                state._open += 1
                state.most_open = max(state.most_open, state._open)
            said = say(asked)
            with state._lock:
                state._open -= 1
            body = json.dumps(_completion(said)).encode() if said.body is None else said.body
            self._send(said.status, body, said.drips, said.stops)

        def do_GET(self) -> None:
            self._send(*_or_404(state.entry and {"object": "list", "data": [state.entry]}))

        def _send(self, status: int, body: bytes, drips: float = 0.0, stops: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.send_header("retry-after-ms", "1")  # the client's pauses are long for a test
            self.end_headers()
            size = -(-len(body) // 20) if drips else max(1, len(body))
            with suppress(ConnectionError):  # who asked has gone
                if stops:
                    self.close_connection = True
                    self.wfile.write(body[:4])
                    if stops == "stalled":
                        self.rfile.read(1)  # comes back when who asked has gone
                    return
                for first in range(0, len(body), size):
                    time.sleep(drips)
                    self.wfile.write(body[first : first + size])

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        state.address = f"http://127.0.0.1:{server.server_port}/v1#judge"
        try:
            yield state
        finally:  # a server that is closed while it serves goes round on its closed socket for ever
            server.shutdown()


def _or_404(found: Any) -> tuple[int, bytes]:
    return (200, json.dumps(found).encode()) if found else (404, b"{}")


def _completion(said: Said) -> dict[str, Any]:
    if said.status != 200:
        return {"error": {"message": "scripted failure", "type": "server_error"}}
    message = {"role": "assistant", "content": said.text, **said.more}
    return {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": "judge",
        "choices": [{"index": 0, "message": message, "finish_reason": said.finish_reason}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 7, "total_tokens": 8} | said.usage,
    }
