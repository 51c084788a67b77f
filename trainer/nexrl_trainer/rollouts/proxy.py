"""What the trainer asks of the proxy: to have every span of an attempt stored before the attempt is judged."""

import aiohttp

from nexrl.errors import ServiceError

FLUSH_TIMEOUT_S = 60.0


class ProxyClient:
    """Talks to one proxy with the admin key."""

    def __init__(self, url: str, admin_key: str, http: aiohttp.ClientSession) -> None:
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {admin_key}"}
        self._http = http

    async def flush(self, attempt: str) -> int | None:
        """Wait until ingest has acknowledged every span of the attempt; return how many calls it made.

        None where they did not arrive in time. Raises ServiceError where the proxy cannot be reached.
        """
        url = f"{self.url}/api/sessions/{attempt}/flush?timeout_s={FLUSH_TIMEOUT_S:g}"
        # Longer than the proxy's own, so that its answer is heard.
        timeout = aiohttp.ClientTimeout(total=FLUSH_TIMEOUT_S + 10)
        try:
            async with self._http.post(url, headers=self._headers, timeout=timeout) as reply:
                answer = await reply.json(content_type=None)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise ServiceError(f"proxy at {url}: {type(error).__name__}: {error}; see its log") from error
        if reply.status == 504:  # noqa: PLR2004 - HTTP Gateway Timeout
            return None
        if reply.status != 200:  # noqa: PLR2004 - HTTP OK
            raise ServiceError(f"proxy at {url} answered {reply.status}: {answer}")
        return int(answer["calls"])
