"""The forwarder: a task beside the server that reads the log, sends, and remembers how far it got.

What the endpoint has taken is noted in the store, so a restart goes on from there; a crash in between sends some spans
again, which receivers tell by their ids. While the endpoint is away spans wait where they are: in the log. Of several
replicas one forwards, and the others stand by.
"""

import asyncio
import contextlib
import gzip
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable

import aiohttp
from aiohttp import web
from google.protobuf.message import DecodeError
from msgspec import Struct
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceResponse

from nexrl_ingest.forwarding.sending import Stored, request_of
from nexrl_ingest.forwarding.target import Target
from nexrl_ingest.refusals import UnavailableError
from nexrl_ingest.span_log import spans_at
from nexrl_ingest.store import Connection, Store

SHARED_SETTLED_S = 5.0
"""In a database that several replicas share, a span may become visible so much later than one that came after it."""
MOST_SPANS = 64
MOST_BYTES = 1024 * 1024
"""Of stored spans in one request, unless its only span is larger."""
NAP_S = 0.5
"""Between looks at a log that had nothing new."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 60.0
POST_TIMEOUT_S = 30.0
TRIES = 5
"""Of a request that makes the endpoint fail (500), before it counts as refused."""
OK, FAILED = 200, 500
REFUSALS = frozenset({400, 413, 415, 422})
"""Answers that another try will not change. A wrong key is not among them: people mend it while spans wait."""
log = logging.getLogger(__name__)


class Verdict(Struct, frozen=True):
    """What the endpoint said to a request."""

    status: int | None
    """None where nobody answered."""
    reason: str = ""
    retry_after_s: float = 0.0


class Forwarder:
    """Sends what is stored to one target; `run` until it is cancelled."""

    def __init__(self, store: Store, target: Target, *, settled_s: float = 0.0) -> None:
        """`settled_s`: spans younger than that wait, where several replicas write and may commit out of order."""
        self._store = store
        self._target = target
        self._settled_ns = int(settled_s * 1e9)
        self._most = MOST_SPANS
        self._failures = 0
        self.counters: Counter[str] = Counter()

    async def run(self) -> None:
        """Forward for ever; what fails is logged and tried again later."""
        pause_s = FIRST_PAUSE_S
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=POST_TIMEOUT_S)) as http:
            while True:
                try:
                    verdict = await self._step(http)
                except UnavailableError as error:
                    verdict = Verdict(None, str(error))
                except Exception as error:
                    log.exception("forwarding to %s failed", self._target.url)
                    verdict = Verdict(None, str(error))
                if verdict is None or verdict.status == OK or verdict.status in REFUSALS:
                    pause_s = FIRST_PAUSE_S
                    await asyncio.sleep(NAP_S if verdict is None else 0)
                else:
                    wait_s = min(max(pause_s, verdict.retry_after_s), LONGEST_PAUSE_S)
                    log.warning("forwarding to %s waits %.1f s: %s", self._target.url, wait_s, verdict.reason)
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                    await asyncio.sleep(wait_s)

    async def _step(self, http: aiohttp.ClientSession) -> Verdict | None:
        """Send the next spans and note what became of them; None where there are none, or where others send them."""
        if not await self._store.leads(f"forward to {self._target.url}"):
            return None
        stored = await self._store.read(self._next)
        if not stored:
            return None
        body = await asyncio.to_thread(lambda: gzip.compress(request_of(stored).SerializeToString(), compresslevel=1))
        verdict = await self._send(http, body)
        self._failures = self._failures + 1 if verdict.status == FAILED else 0
        if verdict.status == OK:
            self.counters["forwarded"] += len(stored)
            self._most = min(2 * self._most, MOST_SPANS)
            await self._advance(stored[-1].seq)
        elif verdict.status in REFUSALS or self._failures >= TRIES:
            await self._refused(stored, verdict)
        return verdict

    async def _refused(self, stored: list[Stored], verdict: Verdict) -> None:
        """Send fewer at once, down to the one span that cannot be taken; that one is left out."""
        if len(stored) > 1:
            self._most = len(stored) // 2
            return
        [item] = stored
        log.error("span %s is not forwarded: %s: %s", item.found.span.span_id.hex(), self._target.url, verdict.reason)
        self.counters["refused"] += 1
        self._failures = 0
        await self._advance(item.seq)

    async def _send(self, http: aiohttp.ClientSession, body: bytes) -> Verdict:
        headers = {"Content-Type": "application/x-protobuf", "Content-Encoding": "gzip"} | self._target.headers
        try:
            async with http.post(self._target.url, data=body, headers=headers, allow_redirects=False) as response:
                said = await response.content.read(MOST_BYTES)
                self._note_rejected(response.status, said)
                reason = f"status {response.status}: {said[:200].decode(errors='replace')}"
                return Verdict(response.status, reason, _seconds(response.headers.get("Retry-After", "")))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Verdict(None, f"{type(error).__name__}: {error}")

    def _note_rejected(self, status: int, said: bytes) -> None:
        if status != OK:
            return
        with contextlib.suppress(DecodeError):
            partial = ExportTraceServiceResponse.FromString(said).partial_success
            if partial.rejected_spans:
                self.counters["rejected"] += partial.rejected_spans
                log.warning("%s rejected %d spans: %s", self._target.url, partial.rejected_spans, partial.error_message)

    def _next(self, connection: Connection) -> list[Stored]:
        row = connection.fetch_one("SELECT seq FROM forwarding WHERE target = ?", (self._target.url,))
        query = "SELECT seq, session, block, place FROM spans WHERE seq > ? AND at_ns <= ? ORDER BY seq LIMIT ?"
        settled_ns = time.time_ns() - self._settled_ns
        rows = connection.fetch(query, (row[0] if row else 0, settled_ns, self._most))
        found: list[Stored] = []
        size = 0
        spans = spans_at(connection, [(block, place) for _, _, block, place in rows])
        for (seq, session, _, _), one in zip(rows, spans, strict=False):
            size += one.span.ByteSize()
            if found and size > MOST_BYTES:
                break
            found.append(Stored(seq, session, one))
        return found

    async def _advance(self, seq: int) -> None:
        query = (
            "INSERT INTO forwarding (target, seq) VALUES (?, ?) ON CONFLICT (target) DO UPDATE SET seq = excluded.seq"
        )
        await self._store.write(lambda connection: connection.execute(query, (self._target.url, seq)), exclusive=False)


def background(forwarder: Forwarder) -> Callable[[web.Application], AsyncIterator[None]]:
    """Return what lets a forwarder run as long as a server does."""

    async def running(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(forwarder.run(), name="forward spans")
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    return running


def _seconds(retry_after: str) -> float:
    """Return a Retry-After of seconds; a date counts as none, and the usual pause is made."""
    return float(retry_after) if retry_after.isdecimal() else 0.0
