"""Capture: every call is on disk before it is answered, and reaches ingest as a span later, at least once.

Recording never waits and never fails a reply. What is kept is the span as it will travel: made once, in the event loop,
since a thread beside it would take the interpreter's lock from the requests for milliseconds at a time. What ingest
refuses is kept beside the spool and counted; what it cannot take now is sent again, for ever. How spans are kept is
`spool`; what is in one is `nexrl.spans`.
"""

import asyncio
import contextlib
import logging
from collections import Counter, OrderedDict

import aiohttp
import zstandard
from google.protobuf.message import DecodeError
from msgspec import Struct
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTracePartialSuccess,
    ExportTraceServiceResponse,
)

from nexrl import wire
from nexrl.records import Call, decode, encode
from nexrl.spans import span_bytes
from nexrl_proxy.attribution import Caller
from nexrl_proxy.conversation import remember
from nexrl_proxy.spool import Spool

BATCH_SPANS = 32
BATCH_BYTES = 256 * 1024
LONGEST_PAUSE_S = 5.0
POST_TIMEOUT_S = 30.0
GATHER_S = 0.025
"""How long the first span waits for others: a request for each would cost both services more than the spans do."""
LINGER_S = 2.0
MOST_COUNTED = 100_000
"""Sessions whose number of calls is remembered for `flush`."""
OK = 200
REFUSALS = frozenset({400, 413, 415, 422})
"""Answers that another try will not change. A wrong key is not among them: people mend it while spans wait."""
log = logging.getLogger(__name__)
_compressor = zstandard.ZstdCompressor(level=1)


class Kept(Struct, frozen=True, array_like=True):
    """A call as it waits in the spool."""

    session: str
    span: bytes
    """OTLP."""
    other_model: bool = False
    """See `Call.other_model`."""


class Recorded(Struct, frozen=True):
    """How many calls of a session are kept."""

    calls: int = 0
    of_other_models: int = 0
    """Of these, the ones that none of the models answered that may be trained."""

    def plus(self, number: int, *, other_model: bool) -> "Recorded":
        """Return what it is with so many more calls."""
        return Recorded(self.calls + number, self.of_other_models + number * other_model)


class Batch(Struct, frozen=True):
    """Frames from the spool, and the request that delivers them."""

    frames: list[bytes]
    sessions: list[str]
    request: bytes
    """zstd"""


class Verdict(Struct, frozen=True):
    """What ingest said to a batch."""

    kind: str
    """`accepted`, `refused`, or `later`."""
    reason: str = ""


class Recorder:
    """Records calls and delivers their spans to `ingest` in the background."""

    def __init__(self, spool: Spool, *, ingest: str, admin_key: str, http: aiohttp.ClientSession) -> None:
        self._spool = spool
        self._url = f"{ingest.rstrip('/')}/v1/traces"
        self._headers = {
            "authorization": f"Bearer {admin_key}",
            "content-type": "application/x-protobuf",
            "content-encoding": "zstd",
        }
        self._http = http
        self._work = asyncio.Event()
        self._hurried = asyncio.Event()
        """Somebody waits for spans to be delivered, so they gather no longer."""
        self._settled = asyncio.Condition()
        self._outstanding: Counter[str] = Counter()
        self._recorded: OrderedDict[str, Recorded] = OrderedDict()
        self._singly = 0
        """So many of the next spans go alone, to find the one that ingest refused in a batch."""
        self._task: asyncio.Task[None] | None = None
        self.counters: Counter[str] = Counter()

    def start(self) -> None:
        """Deliver from now on, beginning with what an earlier process left."""
        for frame in self._spool.left_over():
            self._outstanding[decode(frame, Kept).session] += 1
        self._work.set()
        self._task = asyncio.create_task(self._deliver_for_ever(), name="deliver spans")

    async def stop(self) -> None:
        """Deliver for a moment longer; the rest stays on disk for the next process."""
        self._hurried.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S), self._settled:
                await self._settled.wait_for(lambda: not self._outstanding)
        if self._task:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._spool.close()

    def record(self, call: Call, caller: Caller, *, prompt_tokens: int) -> None:
        """Keep a call. Never raises, never waits."""
        try:
            span = span_bytes(
                call, prompt_tokens=prompt_tokens, trace_id=caller.trace_id, parent_span=caller.parent_span
            )
            on_disk = self._spool.append(encode(Kept(call.session, span, call.other_model)))
        except Exception:  # whatever it is, the agent gets its reply
            log.exception("call %s of %s could not be recorded", call.id, call.session)
            self.counters["unrecorded"] += 1
            return
        if not on_disk:
            log.error("the disk refuses spans: call %s of %s waits in memory", call.id, call.session)
        self.counters["spooled" if on_disk else "kept_in_memory"] += 1
        before = self._recorded.get(call.session, Recorded())
        remember(self._recorded, call.session, before.plus(1, other_model=call.other_model), most=MOST_COUNTED)
        self._outstanding[call.session] += 1
        self._work.set()

    async def flush(self, session: str, timeout_s: float) -> Recorded:
        """Return what is recorded of a session once ingest has acknowledged all of it; raises TimeoutError."""
        if session in self._outstanding:
            self._hurried.set()
            async with asyncio.timeout(timeout_s), self._settled:
                await self._settled.wait_for(lambda: session not in self._outstanding)
        return self._recorded.get(session, Recorded())

    def pending(self, session: str | None = None) -> int:
        """Return how many spans ingest has not acknowledged."""
        return self._outstanding.total() if session is None else self._outstanding[session]

    @property
    def torn(self) -> int:
        """Number of frames a crash left unreadable."""
        return self._spool.torn

    async def _deliver_for_ever(self) -> None:
        tries = 0
        while True:
            await self._work.wait()
            await self._gather()
            try:
                verdict = await self._deliver()
            except Exception:  # a delivery that fails for a reason of its own must not end deliveries
                log.exception("a batch of spans could not be delivered")
                verdict = Verdict("later", "see the traceback above")
            if verdict.kind != "later":
                tries = 0
                continue
            log.log(
                logging.ERROR if tries == 0 else logging.DEBUG,
                "ingest %s: %s; %d spans wait and will be sent again",
                self._url,
                verdict.reason,
                self.pending(),
            )
            await asyncio.sleep(min(0.05 * 2**tries, LONGEST_PAUSE_S))
            tries = min(tries + 1, 16)

    async def _gather(self) -> None:
        """Let a batch come together."""
        if len(self._outstanding) < BATCH_SPANS and self._outstanding.total() < BATCH_SPANS:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GATHER_S):
                    await self._hurried.wait()
        self._hurried.clear()

    async def _deliver(self) -> Verdict:
        """Send the oldest batch and act on the verdict."""
        frames = self._spool.peek(frames=1 if self._singly else BATCH_SPANS, size=BATCH_BYTES)
        if not frames:
            self._work.clear()
            return Verdict("accepted")
        batch = batch_of(frames)
        verdict = await self._post(batch)
        if verdict.kind == "later":
            return verdict
        if verdict.kind == "refused" and len(frames) > 1:
            self._singly = len(frames)
            return verdict
        self._singly = max(0, self._singly - 1)
        if verdict.kind == "refused":
            self._bury(batch, verdict)
        self.counters["delivered" if verdict.kind == "accepted" else "rejected"] += len(frames)
        self._spool.advance(frames)
        await self._settle(batch)
        return verdict

    def _bury(self, batch: Batch, verdict: Verdict) -> None:
        """Set aside a call that ingest will never take; `flush` no longer counts it, or its attempt would wait."""
        [session], [frame] = batch.sessions, batch.frames
        log.error("ingest refuses a span of %s, kept as a dead letter: %s", session, verdict.reason)
        self._spool.bury(frame)
        if before := self._recorded.get(session):
            self._recorded[session] = before.plus(-1, other_model=decode(frame, Kept).other_model)

    async def _settle(self, batch: Batch) -> None:
        for session in batch.sessions:
            self._outstanding[session] -= 1
            if self._outstanding[session] <= 0:
                del self._outstanding[session]
        async with self._settled:
            self._settled.notify_all()

    async def _post(self, batch: Batch) -> Verdict:
        timeout = aiohttp.ClientTimeout(total=POST_TIMEOUT_S)
        try:
            async with self._http.post(self._url, data=batch.request, headers=self._headers, timeout=timeout) as reply:
                return verdict_of(reply.status, await reply.read())
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return Verdict("later", f"{type(error).__name__}: {error}")


def batch_of(frames: list[bytes]) -> Batch:
    """Return what delivers these frames: an OTLP export request of one span each."""
    kept = [decode(frame, Kept) for frame in frames]
    request = wire.request((one.span for one in kept), service="nexrl-proxy", scope="nexrl_proxy")
    return Batch(frames, [one.session for one in kept], _compressor.compress(request))


def verdict_of(status: int, body: bytes) -> Verdict:
    """Return what an OTLP answer means for the spans it answers."""
    if status in REFUSALS:
        return Verdict("refused", f"HTTP {status}: {_said(body)}")
    if status != OK:
        return Verdict("later", f"HTTP {status}: {_said(body)}")
    try:
        partial = ExportTraceServiceResponse.FromString(body).partial_success
    except DecodeError:  # some servers answer with JSON; 200 is what counts
        return Verdict("accepted")
    return Verdict("refused", partial.error_message) if partial.rejected_spans else Verdict("accepted")


def _said(body: bytes) -> str:
    """Return the message of an error, which OTLP's servers send as a `google.rpc.Status`."""
    with contextlib.suppress(DecodeError):
        # Field 1 a number, field 2 the message, as here.
        if message := ExportTracePartialSuccess.FromString(body).error_message:
            return message[:500]
    return body[:500].decode(errors="replace")
