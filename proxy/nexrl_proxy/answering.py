"""Give an answer to the client: whole, or as it is sampled; and to the client's next try where this one is gone.

SDKs send a request again when its connection breaks or their time is up. A try whose answer never began to be
delivered goes on sampling for a moment, and the next try gets that answer: nothing is sampled twice.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from hashlib import blake2b
from typing import Any

import msgspec
from aiohttp import HttpVersion11, web

from nexrl_proxy.dialects import Answer, TokenText, Usage
from nexrl_proxy.draw import Running
from nexrl_proxy.errors import ApiError
from nexrl_proxy.reading import Delta
from nexrl_proxy.refused import REFUSALS
from nexrl_proxy.sampling import Outcome

STREAM_HEADERS = {"content-type": "text/event-stream", "cache-control": "no-cache", "x-accel-buffering": "no"}
RETRY_HEADER = "x-stainless-retry-count"
"""Sent by the SDKs of OpenAI and Anthropic with every try, the first one's is 0."""
RETRY_WITHIN_S = 10.0
"""They wait at most 8 s before the next one."""
MOST_UNREAD = 8 * 2**20
"""Bytes a client may leave unread before its stream waits for it."""
READ_AGAIN_S = 0.05
"""How often such a client is looked at."""


class Reply:
    """The answer to one request while it is made. `emit` may be called before, while and after somebody reads it.

    What one read of the engine brought leaves in one write, however many events it is.
    """

    def __init__(self, answer: Answer, *, stream: bool) -> None:
        self.answer = answer
        self.stream = stream
        self.delivered = False
        """Something was sent to the client."""
        self.behind = False
        """The client leaves too much unread; `caught_up` says when to go on."""
        self._is_open = False
        self._pieces: list[bytes] = []
        """What was not sent yet."""
        self._request: web.Request | None = None
        self._response: web.StreamResponse | None = None
        self._opening: asyncio.Task[None] | None = None

    def emit(self, index: int, deltas: list[Delta], tokens: list[TokenText] | None) -> None:
        """Send what one event of the engine brought; never fails, so that sampling goes on and is recorded."""
        begun = b"" if self._is_open else self._began()
        if piece := begun + self.answer.delta(index, deltas, tokens):
            self._pieces.append(piece)

    async def caught_up(self) -> None:
        """Return when the client has read enough, or is gone."""
        while self.behind:
            await asyncio.sleep(READ_AGAIN_S)
            self._weigh()

    def attach(self, request: web.Request) -> None:
        """Send to this request from now on, first what it missed."""
        self._request = request
        self.flush()

    def detach(self) -> None:
        """Send to nobody; keep what arises for the next try unless this one has begun to be delivered."""
        self._request = None
        self.behind = False

    async def end(self, outcomes: Sequence[Outcome]) -> web.StreamResponse:
        """Send the rest; returns the response."""
        choices, usage = [outcome.choice for outcome in outcomes], total(outcomes)
        if not self.stream:
            self.delivered = True
            return json_response(self.answer.whole(choices, usage))
        self._pieces.append(self._began())
        self._pieces += [self.answer.last(index, choice) for index, choice in enumerate(choices)]
        self._pieces.append(self.answer.end(usage))
        return await self._ended()

    async def fail(self, error: ApiError) -> web.StreamResponse:
        """Send the error in the stream, or raise it where there is still a status to answer with."""
        if not self._is_open:
            raise error
        self._pieces.append(self.answer.failed(error))
        return await self._ended()

    def _began(self) -> bytes:
        """Return what opens the stream, once."""
        if self._is_open:
            return b""
        self._is_open = True
        return self.answer.first()

    def flush(self) -> None:
        """Send what is there to be sent."""
        request = self._request
        if request is None:
            if self.delivered:
                self._pieces.clear()
        elif self._pieces and self._response is None:
            self._opening = self._opening or asyncio.create_task(self._open(request))
        elif piece := b"".join(self._pieces):
            self._pieces.clear()
            self._write(request, piece)

    def _write(self, request: web.Request, piece: bytes) -> None:
        """Send behind aiohttp's back, which takes more for a piece than all the rest of the way."""
        transport = request.transport
        if transport is None or transport.is_closing():
            self.detach()
            return
        chunked = request.version >= HttpVersion11
        transport.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        self._weigh()

    def _weigh(self) -> None:
        transport = self._request.transport if self._request else None
        self.behind = transport is not None and transport.get_write_buffer_size() > MOST_UNREAD

    async def _open(self, request: web.Request) -> None:
        """Send the head, and the first pieces with it."""
        response = web.StreamResponse(headers=STREAM_HEADERS)
        try:
            await response.prepare(request)
            self.delivered = True
            piece = b"".join(self._pieces)
            self._pieces.clear()
            await response.write(piece)
        except ConnectionError:
            self.detach()
            return
        self._response = response
        self.flush()

    async def _ended(self) -> web.StreamResponse:
        if self._response is None and self._request:
            self._opening = self._opening or asyncio.create_task(self._open(self._request))
        if self._opening:
            await self._opening
        if self._response is None or self._request is None:
            raise ConnectionResetError("the client has gone")
        rest = b"".join(self._pieces)
        self._pieces.clear()
        await self._response.write(rest)
        await self._response.write_eof()
        return self._response


class Work:
    """A reply and the sampling that makes it."""

    def __init__(self, reply: Reply, running: Running, task: "asyncio.Task[list[Outcome]]") -> None:
        self.reply = reply
        self.running = running
        self.task = task


class Retries:
    """Work whose client has gone, kept until the client's next try or its time is up."""

    def __init__(self, within_s: float = RETRY_WITHIN_S) -> None:
        self._within_s = within_s
        self._kept: dict[tuple[str, bytes], tuple[Work, asyncio.TimerHandle]] = {}
        self._background: set[asyncio.Future[None]] = set()
        self.folded = 0

    def take(self, session: str, body: bytes, count: str | None) -> Work | None:
        """Return the work that an earlier try of the same request left."""
        if not count or count == "0":
            return None
        kept = self._kept.pop((session, _digest(body)), None)
        if kept is None:
            return None
        work, timer = kept
        timer.cancel()
        self.folded += 1
        return work

    def keep(self, session: str, body: bytes, work: Work) -> None:
        """Keep work for the next try; what it samples is recorded in any case."""
        key = (session, _digest(body))
        self._drop(key)
        timer = asyncio.get_running_loop().call_later(self._within_s, self._drop, key)
        self._kept[key] = (work, timer)

    def abandon(self, work: Work) -> None:
        """Stop sampling for a client who has gone for good."""
        self.later(work.running.abort())

    def later(self, work: Awaitable[None]) -> None:
        """Do something that nobody waits for."""
        task = asyncio.ensure_future(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def drop(self, session: str) -> None:
        """Keep nothing of a session any longer."""
        for key in [key for key in self._kept if key[0] == session]:
            self._drop(key)

    def _drop(self, key: tuple[str, bytes]) -> None:
        if kept := self._kept.pop(key, None):
            work, timer = kept
            timer.cancel()
            self.abandon(work)


async def delivered(
    request: web.Request, session: str, body: bytes, work: Work, retries: Retries
) -> web.StreamResponse:
    """Answer a request; a client who leaves stops the sampling, unless it may try again for an answer it never saw."""
    try:
        work.reply.attach(request)
        outcomes = await asyncio.shield(work.task)
        return await work.reply.end(outcomes)
    except ApiError as error:
        response = await work.reply.fail(error)
        request.app[REFUSALS].note(session, error)
        return response
    except (asyncio.CancelledError, ConnectionError):
        work.reply.detach()
        if RETRY_HEADER in request.headers and not work.reply.delivered:
            retries.keep(session, body, work)
        else:
            retries.abandon(work)
        raise


def total(outcomes: Sequence[Outcome]) -> Usage:
    """Return a request's usage: each prompt counts once, completions all."""
    usages = [outcome.usage for outcome in outcomes]
    return Usage(
        prompt_tokens=usages[0].prompt_tokens,
        completion_tokens=sum(usage.completion_tokens for usage in usages),
        cached_tokens=max(usage.cached_tokens for usage in usages),
        reasoning_tokens=sum(usage.reasoning_tokens for usage in usages),
    )


def json_response(body: Any, *, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Return a JSON response."""
    return web.Response(body=msgspec.json.encode(body), status=status, content_type="application/json", headers=headers)


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=16).digest()
