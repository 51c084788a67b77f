"""What the kinds of engines have in common: answers as JSON, failures, health, aborting where only closing helps."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any

import msgspec

from nexrl_proxy.engines import Completion, Hearer
from nexrl_proxy.engines.connection import HttpError
from nexrl_proxy.engines.events import Events
from nexrl_proxy.engines.failures import OK, failure, lost
from nexrl_proxy.engines.http import Reply, Upstream

HEALTH_TIMEOUT_S = 5.0
Failed = Callable[[str, int, bytes], Exception]
"""Takes an engine's URL, a status and a body."""


class CutError(HttpError):
    """The exchange was ended from here."""


@contextlib.contextmanager
def told(url: str) -> Generator[None]:
    """Translate what goes wrong in an exchange into EngineLost; one that was cut from here stays a CutError."""
    try:
        yield
    except CutError:
        raise
    except HttpError as error:
        raise lost(url, error) from error
    except msgspec.DecodeError as error:
        raise lost(url, f"its answer cannot be read: {error}") from error


def ended(url: str, completion: Completion) -> None:
    """Raise EngineLost where an answer ended before its completion did."""
    if completion.finish is None:
        raise lost(url, "its answer ended before the completion did")


async def bodies(
    reply: Reply, url: str, hearer: Hearer, hear: Callable[[bytes], None], *, stream: bool, failed: Failed = failure
) -> None:
    """Call `hear` with the JSON of a plain reply, or of each event of a stream, as fast as `hearer` keeps up.

    Raises HttpError, what `hear` raises, and what `failed` makes of an answer that is no success.
    """
    if (status := await reply.status()) != OK:
        raise failed(url, status, await reply.read())
    if not stream:
        hear(await reply.read())
        return
    events = Events()

    def take(piece: bytes) -> bool:
        for data in events.push(piece):
            hear(data)
        return hearer.keeps_up() and not events.ended

    while await reply.feed(take) and not events.ended:
        await hearer.caught_up()


async def answers(upstream: Upstream, path: str, *, below: int) -> bool:
    """Whether a GET is answered soon, with a status below the given one."""
    try:
        async with asyncio.timeout(HEALTH_TIMEOUT_S):
            answer = await upstream.fetch("GET", path, repeatable=True)
    except (HttpError, TimeoutError):
        return False
    return answer.status < below


async def quiet(asking: Awaitable[Any], *, within_s: float) -> None:
    """Ask for something whose failure changes nothing."""
    with contextlib.suppress(HttpError, TimeoutError):
        async with asyncio.timeout(within_s):
            await asking


class Exchanges:
    """Requests under way, by rid, for engines that know no other way to abort one than that nobody waits for it."""

    def __init__(self, upstream: Upstream) -> None:
        self._upstream = upstream
        self._replies: dict[str, Reply | None] = {}
        self._cut: set[str] = set()

    @contextlib.asynccontextmanager
    async def post(self, rid: str, path: str, body: bytes) -> AsyncGenerator[Reply]:
        """Send a request; raises CutError where `cut` ended it, else HttpError."""
        self._replies[rid] = None
        try:
            async with self._upstream.stream("POST", path, body) as reply:
                self._replies[rid] = reply
                if rid in self._cut:
                    reply.cut()
                yield reply
        except HttpError as error:
            if rid in self._cut:
                raise CutError("aborted by request") from error
            raise
        finally:
            del self._replies[rid]
            self._cut.discard(rid)

    def cut(self, rid: str) -> None:
        """End a request; one that is unknown has ended already."""
        if rid in self._replies:
            self._cut.add(rid)
            if reply := self._replies[rid]:
                reply.cut()
