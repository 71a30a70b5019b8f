"""The three things untrusted or test code is run as, inside a sandbox that is already closed."""

import builtins
import contextlib
import socket
import sys
import types
from _sitebuiltins import Quitter
from typing import Any

from .messages import Channel, ChannelBroken, RemoteError, RemoteFunction, decode, encode


def run_program(code: str) -> None:
    """Run `code` as a main program on the process's own standard streams."""
    exec(compile(code, "program.py", "exec"), _module("__main__"))


def serve_function(code: str, function: str, sock: socket.socket) -> None:
    """Define `function` by running `code`, then answer calls of it until the socket closes."""
    channel = Channel(sock)
    try:
        namespace = _module("solution")
        try:
            exec(compile(code, "solution.py", "exec"), namespace)
        except SystemExit as end:  # `exit()` below the function: what it defined is there
            if end.code not in (None, 0) or function not in namespace:
                raise
        target = namespace[function]
        if not callable(target):
            raise TypeError(f"{function} is not a function")
    except BaseException as error:  # noqa: BLE001 - reported to the caller, who decides
        channel.send(_raised(error))
        return
    channel.send({"value": None})
    while True:
        try:
            question = channel.receive()
        except ChannelBroken:
            return
        channel.send({"id": question["id"], **_called(target, question)})


def run_tests(payload: dict[str, str], control: socket.socket, solution: socket.socket) -> None:
    """Run test code against a function in another sandbox; tell `control` {"passed", "error",
    "broken"}. broken: the tests raised before they called a function that was there: their own doing.

    payload: prefix (code the tests may use: the task's own helpers), suffix (the tests; where it
    defines `check`, that is called with the function), function.
    """
    remote = _Proxy(RemoteFunction(Channel(solution)))
    error, loaded, broken = "", False, False
    try:
        remote.function.wait_loaded()
        loaded = True
        namespace = _module("tests")
        with contextlib.suppress(SyntaxError):  # a prompt may end mid-statement
            exec(compile(payload["prefix"], "prefix.py", "exec"), namespace)
        namespace[payload["function"]] = remote
        exec(compile(payload["suffix"], "tests.py", "exec"), namespace)
        if callable(namespace.get("check")) and not remote.called:
            namespace["check"](remote)
        if not remote.called:
            error = "the tests never called the function"
    except BaseException as raised:  # noqa: BLE001 - a failed test is an answer
        error = f"{type(raised).__name__}: {raised}"[:500]
        broken = loaded and not remote.called
    Channel(control).send({"passed": not error, "error": error, "broken": broken})


class _Proxy:
    """A RemoteFunction that raises the built-in exception of the same name."""

    def __init__(self, function: RemoteFunction) -> None:
        self.function = function
        self.called = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.called = True
        try:
            return self.function(*args, **kwargs)
        except RemoteError as error:
            kind = getattr(builtins, error.kind, None)
            if isinstance(kind, type) and issubclass(kind, Exception):
                raise _built(kind, str(error)) from None
            raise


def _built(kind: type[Exception], message: str) -> Exception:
    try:
        return kind(message)
    except TypeError:  # UnicodeDecodeError and its like want five arguments
        return RuntimeError(message)


def _called(target: Any, question: dict[str, Any]) -> dict[str, Any]:
    try:
        args, kwargs = decode(question["args"]), decode(question["kwargs"])
        return {"value": encode(target(*args, **kwargs))}
    except BaseException as error:  # noqa: BLE001 - reported to the caller, who decides
        return _raised(error)


def _raised(error: BaseException) -> dict[str, Any]:
    try:
        text = str(error)[:500]
    except BaseException:  # noqa: BLE001 - a hostile __str__ is not a reason to lose the answer
        text = ""
    return {"raised": [type(error).__name__, text]}


def _module(name: str) -> dict[str, Any]:
    """A fresh module's namespace, findable by dataclasses, pickle and typing."""
    # An interpreter has them from `site`, which is left out here.
    vars(builtins).update({word: Quitter(word, "the end of input") for word in ("exit", "quit")})
    module = types.ModuleType(name)
    sys.modules[name] = module
    return vars(module)
