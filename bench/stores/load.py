"""The load as a process: `python -m stores.load` sends what standard input asks for, one line of JSON in, one out."""

import asyncio
import secrets
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import aiohttp
import msgspec
import uvloop
import zstandard

from nexrl.spans import span_bytes
from stores.wire import Body, Send, Sent, Stream
from stores.workload import SPANS_AT_ONCE, Speaker, bodies

OK = 200
BUSY = frozenset({429, 503})
PAUSE_S = 0.02
PATIENCE_S = 60.0
"""With one request: with its answer, and with a server that has no room for it."""
SMALL_PROMPT, SMALL_COMPLETION = 96, 32
TURNS = 8
VARIANTS = 64


async def send(asked: Send) -> Sent:
    """Send bodies that are ready, as fast as they are taken."""
    found = bodies_in(Path(asked.path))
    unpack = zstandard.ZstdDecompressor().decompress
    ready = [(one, one.packed if asked.packed else unpack(one.packed)) for one in found]
    headers = asked.headers | ({"Content-Encoding": "zstd"} if asked.packed else {})
    return await _post(asked.url, headers, iter(ready), asked.c)


async def stream(asked: Stream) -> Sent:
    """Make calls and send them."""
    packed = ((one, one.packed) for one in bodies_of(asked.calls))
    return await _post(asked.url, asked.headers | {"Content-Encoding": "zstd"}, packed, asked.c)


def bodies_in(path: Path) -> list[Body]:
    return msgspec.msgpack.decode(path.read_bytes(), type=list[Body])


def bodies_of(calls: int) -> Iterator[Body]:
    """Yield small calls, eight to a session; what they say comes again after a while."""
    speaker = Speaker(4)
    drawn = [speaker.call("0" * 32, speaker.spoken(SMALL_PROMPT), SMALL_COMPLETION) for _ in range(VARIANTS)]
    session = ""
    for start in range(0, calls, SPANS_AT_ONCE):
        spans: list[bytes] = []
        for number in range(start, min(start + SPANS_AT_ONCE, calls)):
            session = secrets.token_hex(16) if number % TURNS == 0 else session
            call = msgspec.structs.replace(drawn[number % VARIANTS], id=secrets.token_hex(8), session=session)
            spans.append(span_bytes(call, prompt_tokens=SMALL_PROMPT))
        yield from bodies(spans)


async def _post(url: str, headers: dict[str, str], ready: Iterator[tuple[Body, bytes]], c: int) -> Sent:
    sent = Sent()
    given = headers | {"Content-Type": "application/x-protobuf"}
    patience = aiohttp.ClientTimeout(total=PATIENCE_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, headers=given, timeout=patience) as http:
        begun = time.perf_counter()
        await asyncio.gather(*(_send_some(http, url, ready, sent) for _ in range(c)))
        sent.wall_s = time.perf_counter() - begun
    return sent


async def _send_some(http: aiohttp.ClientSession, url: str, ready: Iterator[tuple[Body, bytes]], sent: Sent) -> None:
    for body, data in ready:
        async for status, said in _tries(http, url, data):
            if status == OK and not said:
                sent.spans += body.spans
                sent.plain_bytes += body.plain_bytes
            elif status not in BUSY:
                sent.errors += 1
                sent.error = sent.error or f"{status}: {said[:300].decode(errors='replace')}"


async def _tries(http: aiohttp.ClientSession, url: str, data: bytes) -> AsyncIterator[tuple[int, bytes]]:
    """Send until the server has room for it, or has had none for too long."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        async with http.post(url, data=data) as answer:
            yield answer.status, await answer.read()
            if answer.status not in BUSY:
                return
        if time.monotonic() > deadline:
            raise SystemExit(f"{url}: no room for {PATIENCE_S:.0f} s")
        await asyncio.sleep(PAUSE_S)


async def act(line: bytes) -> Sent:
    asked = msgspec.json.decode(line, type=Send | Stream)
    return await (send(asked) if isinstance(asked, Send) else stream(asked))


def main() -> None:
    for line in sys.stdin.buffer:
        sys.stdout.buffer.write(msgspec.json.encode(uvloop.run(act(line))) + b"\n")
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
