"""Plain values and calls between processes that do not trust each other.

Values travel as JSON with tags for what JSON lacks. Reading one builds only built-in types,
fractions and decimals, so nothing that untrusted code defines (`__eq__`, `__reduce__`) reaches the
reader.
"""

import json
import secrets
import socket
import struct
import time
from collections.abc import KeysView
from decimal import Decimal
from fractions import Fraction
from typing import Any

_HEADER = struct.Struct(">I")
MAX_MESSAGE_BYTES = 8 * 2**20
# Reading a fraction reduces it, which takes time that grows with the square of this.
_FRACTION_BITS = 2**16


class ChannelBroken(Exception):
    """The other side is gone, or sent what is not a message of this protocol."""


class ChannelTimeout(Exception):
    """No complete message before the deadline."""


def encode(value: Any) -> Any:
    """A JSON-able form of None, bool, int, float, str, bytes, complex, list, tuple, dict, set (a
    dict's keys too), Fraction, Decimal and NumPy's scalars.

    Subclasses become their base type, NumPy's scalars Python's; anything else raises TypeError.
    """
    if value is None or isinstance(value, (bool, str)):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value) if -(2**63) <= value < 2**63 else {"i": hex(value)}
    if isinstance(value, float):
        return float(value)
    if isinstance(value, list):
        return [encode(item) for item in value]
    if isinstance(value, tuple):
        return {"t": [encode(item) for item in value]}
    if isinstance(value, dict):
        return {"d": [[encode(key), encode(item)] for key, item in value.items()]}
    if isinstance(value, (set, frozenset, KeysView)):
        return {"s": [encode(item) for item in value]}
    if isinstance(value, (bytes, bytearray)):
        return {"b": bytes(value).hex()}
    if isinstance(value, complex):
        return {"c": [value.real, value.imag]}
    if isinstance(value, Fraction):
        return {"f": [encode(value.numerator), encode(value.denominator)]}
    if isinstance(value, Decimal):
        return {"m": str(value)}
    return encode(_from_numpy(value))


def _from_numpy(value: Any) -> Any:
    """A NumPy scalar, or an array without axes, as Python has it. NumPy is not imported for it."""
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        plain = value.item()
        if type(plain).__module__ == "builtins":
            return plain
    raise TypeError(f"a value of type {type(value).__name__} cannot leave the sandbox")


def decode(data: Any) -> Any:
    """The inverse of `encode`; raises ValueError for what `encode` cannot have made."""
    if data is None or isinstance(data, (bool, int, float, str)):
        return data
    if isinstance(data, list):
        return [decode(item) for item in data]
    if not isinstance(data, dict) or len(data) != 1:
        raise ValueError("not an encoded value")
    tag, body = next(iter(data.items()))
    try:
        if tag == "i":
            return int(body, 16)
        if tag == "t":
            return tuple(decode(item) for item in body)
        if tag == "d":
            return {decode(key): decode(item) for key, item in body}
        if tag == "s":
            return {decode(item) for item in body}
        if tag == "b":
            return bytes.fromhex(body)
        if tag == "c":
            return complex(*body)
        if tag == "f":
            return _fraction(*(decode(item) for item in body))
        if tag == "m":
            return _decimal(body)
    except (TypeError, RecursionError, ArithmeticError) as error:
        raise ValueError("not an encoded value") from error
    raise ValueError(f"unknown tag {tag!r}")


def _fraction(numerator: Any, denominator: Any) -> Fraction:
    whole = isinstance(numerator, int) and isinstance(denominator, int)
    if not whole or max(numerator.bit_length(), denominator.bit_length()) > _FRACTION_BITS:
        raise ValueError("not an encoded value")
    return Fraction(numerator, denominator)


def _decimal(body: Any) -> Decimal:
    if not isinstance(body, str):
        raise ValueError("not an encoded value")
    found = Decimal(body)
    if found.is_snan():  # comparing it raises
        raise ValueError("not an encoded value")
    return found


class Channel:
    """Framed JSON messages over a stream socket, with one deadline for all of them."""

    def __init__(self, sock: socket.socket, deadline: float | None = None) -> None:
        self.sock = sock
        self.deadline = deadline

    def send(self, message: dict[str, Any]) -> None:
        payload = json.dumps(message).encode("ascii")
        if len(payload) > MAX_MESSAGE_BYTES:
            raise ChannelBroken(f"a message of {len(payload):,} bytes is too long")
        self._arm()
        try:
            self.sock.sendall(_HEADER.pack(len(payload)) + payload)
        except TimeoutError as error:
            raise ChannelTimeout from error
        except OSError as error:
            raise ChannelBroken(str(error)) from error

    def receive(self) -> dict[str, Any]:
        (size,) = _HEADER.unpack(self._read(_HEADER.size))
        if size > MAX_MESSAGE_BYTES:
            raise ChannelBroken(f"a message of {size:,} bytes is too long")
        try:
            message = json.loads(self._read(size))
        except (ValueError, RecursionError) as error:
            raise ChannelBroken("not a message") from error
        if not isinstance(message, dict):
            raise ChannelBroken("not a message")
        return message

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            self._arm()
            try:
                chunk = self.sock.recv(min(size - len(data), 65536))
            except TimeoutError as error:
                raise ChannelTimeout from error
            except OSError as error:
                raise ChannelBroken(str(error)) from error
            if not chunk:
                raise ChannelBroken("the process ended")
            data += chunk
        return bytes(data)

    def _arm(self) -> None:
        if self.deadline is None:
            self.sock.settimeout(None)
            return
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise ChannelTimeout
        self.sock.settimeout(left)


class RemoteError(Exception):
    """The called function raised. `kind` is the exception's class name."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind = kind


class RemoteFunction:
    """Calls a function that lives in another sandbox (see server.serve_function)."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def wait_loaded(self) -> None:
        """Raises RemoteError where the code does not run or defines no such function."""
        self._unwrap(self._channel.receive())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # A fresh token each call: an answer that was sent before the question does not count.
        token = secrets.token_hex(8)
        self._channel.send({"id": token, "args": encode(args), "kwargs": encode(kwargs)})
        answer = self._channel.receive()
        if answer.get("id") != token:
            raise ChannelBroken("an answer to no question")
        return self._unwrap(answer)

    @staticmethod
    def _unwrap(answer: dict[str, Any]) -> Any:
        if "raised" in answer:
            raised = answer["raised"]
            kind, text = raised if isinstance(raised, list) and len(raised) == 2 else ("?", "")
            raise RemoteError(str(kind)[:100], str(text)[:500])
        try:
            return decode(answer.get("value"))
        except (ValueError, RecursionError) as error:
            raise ChannelBroken("an answer that is not a value") from error
