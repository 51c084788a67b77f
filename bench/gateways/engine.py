"""The scripted engine as a process: `python -m gateways.engine REPLIES` answers canned bytes, a few microseconds each.

Speaks SGLang's `/generate` and OpenAI's `/v1/chat/completions`, plain and streamed, one event per write. How fast it
samples is set while it runs, by `POST /control`.
"""

import asyncio
import sys
from collections import deque
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from typing import Any

import msgspec
import uvloop

from gateways.http import HEAD_END, chunk, length_of, response, stream_head
from gateways.wire import Reply, Settings

PHASES = 10
"""Paced streams are spread over so many points of a period, so that they do not arrive all at once."""
PAUSE_S = 0.001
"""How long a stream waits whose reader is behind."""
DONE = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
GETS = {
    b"/health": b"{}",
    b"/model_info": b'{"model_path":"policy","weight_version":"1"}',
    b"/get_model_info": b'{"model_path":"policy","weight_version":"1"}',
    b"/v1/models": b'{"object":"list","data":[{"id":"policy","object":"model","created":0,"owned_by":"bench"}]}',
}


class Stream:
    """One streamed answer on its way."""

    def __init__(self, connection: "Connection", chunks: list[bytes]) -> None:
        self._connection = connection
        self._chunks = chunks
        self._next = 0

    def step(self) -> bool:
        """Send the next event, unless the reader is behind; returns whether more will come."""
        if self._connection.is_closed:
            return False
        if self._connection.is_behind:
            return True
        self._connection.write(self._chunks[self._next])
        self._next += 1
        if self._next < len(self._chunks):
            return True
        self._connection.write(DONE)
        return False

    def hurry(self) -> None:
        """Send one event in each turn of the event loop."""
        if self.step():
            loop = asyncio.get_running_loop()
            if self._connection.is_behind:
                loop.call_later(PAUSE_S, self.hurry)
            else:
                loop.call_soon(self.hurry)


class Engine:
    """What all connections share."""

    def __init__(self, replies: list[Reply]) -> None:
        self._replies = cycle(replies)
        self.settings = Settings()
        self._phases: list[list[Stream]] = [[] for _ in range(PHASES)]
        self._started = 0
        self._taken = 0
        self._queue: deque[Callable[[], None]] = deque()

    def answer(self, connection: "Connection", path: bytes, body: bytes) -> None:
        """Answer one request, now or after the delay."""
        if path == b"/control":
            self.settings = msgspec.json.decode(body, type=Settings)
            connection.write(response(b"{}"))
        elif path in (b"/generate", b"/v1/chat/completions"):
            delay, native = self.settings.delay_s, path == b"/generate"
            streamed = b'"stream":true' in body or b'"stream": true' in body
            act = self._stream if streamed else self._whole
            if delay:
                self._later(lambda: act(connection, native))
            else:
                act(connection, native)
        elif path == b"/abort_request":
            connection.write(response(b"{}"))
        else:
            known = GETS.get(path)
            connection.write(response(known) if known else response(b"{}", status="404 Not Found"))

    def _later(self, act: Callable[[], None]) -> None:
        """Answer after the delay, once there is a slot."""
        if 0 < self.settings.slots <= self._taken:
            self._queue.append(act)
            return
        self._taken += 1
        asyncio.get_running_loop().call_later(self.settings.delay_s, self._done, act)

    def _done(self, act: Callable[[], None]) -> None:
        self._taken -= 1
        act()
        if self._queue:
            self._later(self._queue.popleft())

    async def pace(self) -> None:
        """Send the events of paced streams, for ever."""
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            for place in range(PHASES):
                self._phases[place] = [stream for stream in self._phases[place] if stream.step()]
                due = max(due + (self.settings.period_s or 0.1) / PHASES, loop.time())
                await asyncio.sleep(due - loop.time())

    def _whole(self, connection: "Connection", native: bool) -> None:
        reply = next(self._replies)
        connection.write(reply.generate if native else reply.chat)

    def _stream(self, connection: "Connection", native: bool) -> None:
        reply = next(self._replies)
        own = reply.deltas if self.settings.deltas else reply.cumulative
        stream = Stream(connection, own if native else reply.chat_chunks)
        connection.write(stream_head())
        if self.settings.period_s:
            self._phases[self._started % PHASES].append(stream)
            self._started += 1
        else:
            stream.hurry()


class Connection(asyncio.Protocol):
    """One connection: requests in, answers out, one at a time."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._buffer = b""
        self._transport: asyncio.Transport
        self.is_behind = False
        self.is_closed = False

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio names it
        self.is_closed = True

    def pause_writing(self) -> None:
        self.is_behind = True

    def resume_writing(self) -> None:
        self.is_behind = False

    def write(self, data: bytes) -> None:
        if not self.is_closed:
            self._transport.write(data)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(HEAD_END)) >= 0:
            head = self._buffer[:end]
            total = end + len(HEAD_END) + (length_of(head) or 0)
            if len(self._buffer) < total:
                return
            body, self._buffer = self._buffer[end + len(HEAD_END) : total], self._buffer[total:]
            self._engine.answer(self, head.split(b" ", 2)[1], body)


async def serve(replies: list[Reply]) -> None:
    engine = Engine(replies)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(engine), "127.0.0.1", 0, backlog=4096)
    port = server.sockets[0].getsockname()[1]
    print(f"ready http://127.0.0.1:{port}", flush=True)
    await engine.pace()


if __name__ == "__main__":
    uvloop.run(serve(msgspec.msgpack.decode(Path(sys.argv[1]).read_bytes(), type=list[Reply])))
