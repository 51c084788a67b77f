"""One HTTP request to an ingest: with a key, tried again while the service is away or failing, for a bounded time.

What the service refuses is an error at once. Which requests there are is `client.py`'s part.
"""

import asyncio
import time
from http import HTTPStatus

import aiohttp
import msgspec

from nexrl.errors import AccessError, ServiceError

REPLY_TIMEOUT_S = 60.0
"""On top of the time a request asks ingest to wait."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
_CALLS_MISSING = "calls_missing"


class CallsMissingError(ServiceError):
    """The outcome's calls have not all arrived."""


class _Refused(msgspec.Struct, frozen=True):
    message: str = ""
    type: str = ""


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _Refused = _Refused()


class Transport:
    """Sends requests to one ingest; a session that was handed in stays the caller's to close."""

    def __init__(self, url: str, key: str, http: aiohttp.ClientSession | None, give_up_s: float) -> None:
        self._url = url
        self._key = key
        self._http = http
        self._owns_http = http is None
        self._give_up_s = give_up_s

    async def close(self) -> None:
        if self._owns_http and self._http:
            await self._http.close()

    async def request(
        self, method: str, path: str, body: bytes | None = None, *, wait_s: float = 0.0, content_type: str = ""
    ) -> bytes:
        """Return the reply's body, trying again for as long as the service is away or failing."""
        deadline, pause_s = time.monotonic() + self._give_up_s + wait_s, FIRST_PAUSE_S
        while True:
            try:
                status, reply = await self._send(method, path, body, wait_s, content_type)
                failure = _error(reply).message or f"status {status}"
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                status, reply, failure = None, b"", f"{type(error).__name__}: {error}"
            if status and status < HTTPStatus.INTERNAL_SERVER_ERROR:
                return self._accepted(method, path, status, reply)
            if time.monotonic() + pause_s > deadline:
                remedy = f"is `nexrl ingest` running there? (tried for {self._give_up_s:g} s)"
                raise ServiceError(f"ingest {self._url}: {method} {path} failed: {failure}; {remedy}")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    async def _send(
        self, method: str, path: str, body: bytes | None, wait_s: float, content_type: str
    ) -> tuple[int, bytes]:
        self._http = self._http or aiohttp.ClientSession()
        async with self._http.request(
            method,
            self._url + path,
            data=body,
            headers={"Authorization": f"Bearer {self._key}"} | ({"Content-Type": content_type} if content_type else {}),
            timeout=aiohttp.ClientTimeout(total=wait_s + REPLY_TIMEOUT_S),
            # aiohttp would need another library for zstd.
            auto_decompress=False,
        ) as response:
            return response.status, await response.read()

    def _accepted(self, method: str, path: str, status: int, reply: bytes) -> bytes:
        if status == HTTPStatus.OK:
            return reply
        refused = _error(reply)
        message = f"ingest {self._url}: {method} {path}: {refused.message or f'status {status}'}"
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise AccessError(f"{message}; is NEXRL_ADMIN_KEY the one ingest was started with?")
        raise (CallsMissingError if refused.type == _CALLS_MISSING else ServiceError)(message)


def _error(reply: bytes) -> _Refused:
    try:
        return msgspec.json.decode(reply, type=_ErrorBody).error
    except msgspec.DecodeError:
        return _Refused()
