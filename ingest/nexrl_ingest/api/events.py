"""Live events, as server-sent events: resumable by `Last-Event-ID`, and bounded per client.

A reader that does not take what it is sent is cut, not buffered for: it comes back with the last id it saw.
"""

import asyncio
import contextlib
import time
from collections.abc import Generator

import msgspec
from aiohttp import web

from nexrl_ingest.access import READERS
from nexrl_ingest.api.context import CHANGES, STORE
from nexrl_ingest.api.route import Call, Route
from nexrl_ingest.refusals import RefusedError, UnavailableError
from nexrl_ingest.sessions import events
from nexrl_ingest.wire import EventsQuery

MOST_WATCHERS = 64
WRITE_TIMEOUT_S = 10.0
"""A reader that takes nothing for so long is cut."""
BEAT_S = 15.0
"""Between comments that tell proxies on the way that the connection lives."""
NAP_S = 0.5


class Watchers:
    """How many connections watch."""

    def __init__(self) -> None:
        self.count = 0

    @contextlib.contextmanager
    def one(self) -> Generator[None]:
        """Count one more; raises UnavailableError where there are enough."""
        if self.count >= MOST_WATCHERS:
            raise UnavailableError(f"{MOST_WATCHERS} clients watch already: close one, or poll /api/sessions")
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


WATCHERS = web.AppKey("watchers", Watchers)


async def watch(call: Call) -> web.StreamResponse:
    cursor = await _start(call)
    with call.app[WATCHERS].one():
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        )
        await response.prepare(call.request)
        # Only what the kernel takes counts as sent: aiohttp would buffer 64 KiB more.
        if transport := call.request.transport:
            transport.set_write_buffer_limits(high=0)
        with contextlib.suppress(ConnectionError):
            await _send(call, response, cursor)
    return response


async def _send(call: Call, response: web.StreamResponse, cursor: events.Cursor) -> None:
    changes, query, beat = call.app[CHANGES], call.query, time.monotonic()
    while not changes.closed and call.request.transport is not None:
        start = cursor
        found, cursor = await call.app[STORE].read(lambda connection: events.after(connection, start))  # noqa: B023
        text = "".join(_written(event) for event in found if _wanted(event, query))
        if not text and time.monotonic() - beat > BEAT_S:
            text = ": here\n\n"
        if text:
            beat = time.monotonic()
            try:
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    await response.write(text.encode())
            except TimeoutError:
                call.request.transport.abort()
                return
        if cursor == start:
            await changes.nap(NAP_S)


async def _start(call: Call) -> events.Cursor:
    given = call.request.headers.get("Last-Event-ID", "") or call.query.after
    if not given:
        return await call.app[STORE].read(events.now)
    if cursor := events.cursor_of(given):
        return cursor
    raise RefusedError(f"Last-Event-ID {given[:80]!r} is none of ours: send the last `id` received, or none")


def _wanted(event: events.Event, query: EventsQuery) -> bool:
    asked = {"session": query.session, "run": query.run}
    return all(value is None or event.data.get(name) == value for name, value in asked.items())


def _written(event: events.Event) -> str:
    return f"id: {event.cursor}\nevent: {event.kind}\ndata: {msgspec.json.encode(event.data).decode()}\n\n"


ROUTES = [
    Route(
        method="GET",
        path="/api/events",
        name="watchEvents",
        summary=(
            "Server-sent events: call, outcome, reward and lease as they happen. Resumes after `Last-Event-ID` (or "
            "`after`; 0.0.0.0 is the beginning). A reader that takes nothing for 10 s is cut."
        ),
        allow=READERS,
        handler=watch,
        query=EventsQuery,
        reply=str,
        format="events",
    ),
]
