"""An OpenAI-compatible server whose replies a function writes, in a thread of this process."""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# The request's body -> the reply's text, or (status, body) for anything else a server may send.
Answer = Callable[[dict[str, Any]], "str | tuple[int, Any]"]


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that was killed in the middle is not news."""


@contextmanager
def serving(answer: Answer, *, port: int = 0) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """(address with the model `scripted`, bodies of the chat requests that came)."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(200, {"data": [{"id": "scripted", "object": "model"}]})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if not self.path.endswith("/chat/completions"):
                self._send(404, {"error": "no such path"})
                return
            if body.get("max_tokens") != 32:  # the probes of evals.served
                asked.append(body)
            made = answer(body)
            if isinstance(made, str):
                message = {"role": "assistant", "content": made}
                usage = {"completion_tokens": len(made.split()), "prompt_tokens": 1}
                choice = {"message": message, "finish_reason": "stop", "index": 0}
                made = 200, {"choices": [choice], "usage": usage}
            self._send(*made)

        def _send(self, status: int, value: Any) -> None:
            data = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *words: Any) -> None:
            return

    server = _Quiet(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1#scripted", asked
    finally:
        server.shutdown()
        server.server_close()
