"""What the trainer asks of the proxy: spans stored before they are judged, requests held while weights change."""

from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

from nexrl.errors import ServiceError

FLUSH_TIMEOUT_S = 60.0
ANSWER_S = 10.0


class Refused(Struct, frozen=True, kw_only=True):
    """Requests of an attempt that got an error for an answer."""

    count: int
    status: int
    """The last one's, of HTTP."""
    message: str


class Flushed(Struct, frozen=True, kw_only=True):
    """What an attempt asked of models, all of it stored."""

    calls: int
    of_other_models: int
    """Of these, the ones that none of the models answered that may be trained."""
    refused: Refused | None
    """What it asked beside these."""


class ProxyClient:
    """Talks to one proxy with the admin key."""

    def __init__(self, url: str, admin_key: str, http: aiohttp.ClientSession) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {admin_key}"}
        self._http = http

    async def flush(self, attempt: str) -> Flushed | None:
        """End an attempt: wait until ingest has acknowledged every span of it; return what calls it made.

        Whoever calls as this attempt from now on is refused.

        None where they did not arrive in time. Raises ServiceError where the proxy cannot be reached.
        """
        route = f"/api/sessions/{attempt}/flush?end=true&timeout_s={FLUSH_TIMEOUT_S:g}"
        answer = await self._post(route, within_s=FLUSH_TIMEOUT_S)
        return None if answer is None else msgspec.convert(answer, Flushed)

    async def hold(self, *, drain_s: float = 0.0) -> int:
        """Let new requests wait; return how many still run, which with `drain_s` is 0 as soon as it can be."""
        answer = await self._post(f"/api/hold?drain_s={drain_s:g}", within_s=drain_s)
        return int((answer or {})["running"])

    async def release(self, weight_version: int | None = None) -> None:
        """Let them in again; `weight_version` is told to engines that do not know theirs."""
        query = "" if weight_version is None else f"?weight_version={weight_version}"
        await self._post(f"/api/release{query}")

    async def _post(self, route: str, *, within_s: float = 0.0) -> dict[str, Any] | None:
        """Return the answer, None where its time was over. Raises ServiceError where there is none, or a refusal."""
        url = self.url + route
        # Longer than the proxy's own, so that its answer is heard.
        timeout = aiohttp.ClientTimeout(total=within_s + ANSWER_S)
        try:
            async with self._http.post(url, headers=self._headers, timeout=timeout) as reply:
                answer = await reply.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ServiceError(f"proxy at {url}: {type(error).__name__}: {error}; see its log") from error
        if reply.status == 504:  # noqa: PLR2004 - HTTP Gateway Timeout
            return None
        if reply.status != 200:  # noqa: PLR2004 - HTTP OK
            raise ServiceError(f"proxy at {url} answered {reply.status}: {answer}")
        return answer
