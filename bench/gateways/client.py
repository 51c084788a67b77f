"""One connection to a gateway: a call at a time, its answer counted and timed, not understood."""

import asyncio
import time
from typing import Any

from gateways.http import HEAD_END, LAST_CHUNK, is_chunked, length_of, request
from gateways.wire import ROLLOUTS, Target
from nexrl.keys import attempt_key

EVENT = b"data: "
DONE = b"data: [DONE]"
OK = b" 200 "


class Client(asyncio.Protocol):
    """One connection. `send` makes a call; `ended(body, error)` is told when its answer is complete."""

    def __init__(self, ended: Any) -> None:
        self._ended = ended
        self._transport: asyncio.Transport | None = None
        self._waiting = False
        self._reset()

    def _reset(self) -> None:
        self._head = b""
        self._body: list[bytes] = []
        self._tail = b""
        self._left = 0
        self._chunked = False
        self._done = False
        self.events = 0
        self.first_s: float | None = None
        self.started_s = 0.0

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio names it
        self._transport = None
        if self._waiting:
            self._end("the connection was closed before the answer was complete")

    @property
    def is_open(self) -> bool:
        return self._transport is not None

    def send(self, data: bytes) -> None:
        assert self._transport
        self._reset()
        self._waiting = True
        self.started_s = time.perf_counter()
        self._transport.write(data)

    def close(self) -> None:
        self._waiting = False
        if self._transport:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        if self._head.endswith(HEAD_END):
            self._more(data)
            return
        self._head += data
        end = self._head.find(HEAD_END)
        if end >= 0:
            rest = self._head[end + len(HEAD_END) :]
            self._head = self._head[: end + len(HEAD_END)]
            self._chunked = is_chunked(self._head)
            self._left = length_of(self._head) or 0
            self._more(rest)

    def _more(self, data: bytes) -> None:
        self._body.append(data)
        if not self._chunked:
            self._left -= len(data)
            if self._left <= 0:
                self._end("")
            return
        seen = self._tail + data
        self.events += seen.count(EVENT) - self._tail.count(EVENT)
        self._done = self._done or DONE in seen
        if self.first_s is None and self.events:
            self.first_s = time.perf_counter() - self.started_s
        self._tail = seen[-len(DONE) + 1 :]
        if seen.endswith(LAST_CHUNK):
            self._end("" if self._done or not self.events else "the stream ended without [DONE]")

    def _end(self, error: str) -> None:
        self._waiting = False
        body = b"".join(self._body)
        if not error and OK not in self._head[:16]:
            error = f"{self._head[9:40].splitlines()[0].decode()}: {body[:300].decode(errors='replace')}"
        self._ended(self, body, error)


def call(target: Target, session: str, number: int, body: bytes) -> bytes:
    """Return a request to a gateway, in a session."""
    headers = dict(target.headers)
    if target.admin_key:
        headers["authorization"] = f"Bearer {attempt_key(session, target.admin_key)}"
    path = target.path.replace("{rollout}", str(number % ROLLOUTS))
    return request(path, f"{target.host}:{target.port}", headers, body)
