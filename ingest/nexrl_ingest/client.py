"""The trainer's side of ingest's HTTP door.

Every call may be repeated: what was already done is done once. A service that is away or failing is tried again for
a bounded time; what it refuses is an error at once.
"""

import asyncio
import time
from http import HTTPStatus
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import aiohttp
import msgspec
import zstandard

from nexrl.errors import AccessError, ServiceError
from nexrl.records import Attempt, Group, Outcome, decode, encode
from nexrl_ingest.wire import GroupState, Leased, LeaseIds, LeaseRequest, RolloutState

__all__ = ["GroupState", "IngestClient", "Leased", "RolloutState"]

GIVE_UP_S = 30.0
"""How long a service that is away is tried again."""
CALLS_DEADLINE_S = 60.0
"""How long an outcome waits for its calls to arrive."""
REPLY_TIMEOUT_S = 60.0
"""On top of the time a request asks ingest to wait."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 2.0
_CALLS_MISSING = "calls_missing"


class _Refused(msgspec.Struct, frozen=True):
    message: str = ""
    type: str = ""


class _ErrorBody(msgspec.Struct, frozen=True):
    error: _Refused = _Refused()


class _CallsMissingError(ServiceError):
    """The outcome's calls have not all arrived."""


class IngestClient:
    """Talks to one ingest with the admin key; `http` stays the caller's to close."""

    def __init__(
        self, url: str, admin_key: str, http: aiohttp.ClientSession | None = None, *, give_up_s: float = GIVE_UP_S
    ) -> None:
        self.url = url.rstrip("/")
        self._key = admin_key
        self._http = http
        self._owns_http = http is None
        self._give_up_s = give_up_s

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        if self._owns_http and self._http:
            await self._http.close()

    async def put_group(self, group: Group) -> None:
        """Create a group; raises ServiceError where its id is taken by another."""
        await self._request("PUT", f"/api/groups/{_segment(group.id)}", encode(group))

    async def put_attempt(self, attempt: Attempt) -> None:
        """Create an attempt of a group that exists."""
        await self._request("PUT", f"/api/attempts/{_segment(attempt.id)}", encode(attempt))

    async def put_outcome(self, attempt: str, outcome: Outcome, *, deadline_s: float = CALLS_DEADLINE_S) -> None:
        """Finish an attempt, waiting up to `deadline_s` for its calls; raises ServiceError where they do not come."""
        deadline, pause_s = time.monotonic() + deadline_s, _FIRST_PAUSE_S
        while True:
            try:
                await self._request("PUT", f"/api/attempts/{_segment(attempt)}/outcome", encode(outcome))
            except _CallsMissingError:
                if time.monotonic() + pause_s > deadline:
                    raise
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            else:
                return

    async def session(self, session: str) -> dict[str, Any]:
        """Return a session's calls, chains, drift and rewards."""
        return msgspec.json.decode(
            await self._request("GET", f"/api/sessions/{_segment(session)}"), type=dict[str, Any]
        )

    async def groups(self, run: str) -> list[GroupState]:
        """Return every group of a run, in order of creation."""
        return msgspec.json.decode(
            await self._request("GET", f"/api/runs/{_segment(run)}/groups"), type=list[GroupState]
        )

    async def lease(
        self, run: str, *, limit: int = 1, wait_s: float = 0.0, lease_s: float = 600.0, steal: bool = False
    ) -> list[Leased]:
        """Lease up to `limit` ready groups, waiting up to `wait_s` for the first."""
        request = LeaseRequest(run=run, limit=limit, wait_s=wait_s, lease_s=lease_s, steal=steal)
        body = await self._request("POST", "/api/groups/lease", msgspec.json.encode(request), wait_s=wait_s)
        return decode(zstandard.ZstdDecompressor().decompress(body), list[Leased])

    async def ack(self, leases: list[str]) -> None:
        """Take leased groups out of the pool for good; raises ServiceError where a lease ran out."""
        await self._request("POST", "/api/leases/ack", msgspec.json.encode(LeaseIds(leases=leases)))

    async def nack(self, leases: list[str]) -> None:
        """Give leased groups back at once."""
        await self._request("POST", "/api/leases/nack", msgspec.json.encode(LeaseIds(leases=leases)))

    async def _request(self, method: str, path: str, body: bytes | None = None, *, wait_s: float = 0.0) -> bytes:
        """Return the reply's body, trying again for as long as the service is away or failing."""
        deadline, pause_s = time.monotonic() + self._give_up_s + wait_s, _FIRST_PAUSE_S
        while True:
            try:
                status, reply = await self._send(method, path, body, wait_s)
                failure = _message(reply) or f"status {status}"
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                status, reply, failure = None, b"", f"{type(error).__name__}: {error}"
            if status and status < HTTPStatus.INTERNAL_SERVER_ERROR:
                return self._accepted(method, path, status, reply)
            if time.monotonic() + pause_s > deadline:
                remedy = f"is `nexrl ingest` running there? (tried for {self._give_up_s:g} s)"
                raise ServiceError(f"ingest {self.url}: {method} {path} failed: {failure}; {remedy}")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _send(self, method: str, path: str, body: bytes | None, wait_s: float) -> tuple[int, bytes]:
        self._http = self._http or aiohttp.ClientSession()
        async with self._http.request(
            method,
            self.url + path,
            data=body,
            headers={"Authorization": f"Bearer {self._key}"},
            timeout=aiohttp.ClientTimeout(total=wait_s + REPLY_TIMEOUT_S),
            # aiohttp would need another library for zstd.
            auto_decompress=False,
        ) as response:
            return response.status, await response.read()

    def _accepted(self, method: str, path: str, status: int, reply: bytes) -> bytes:
        if status == HTTPStatus.OK:
            return reply
        refused = _error(reply)
        message = f"ingest {self.url}: {method} {path}: {refused.message or f'status {status}'}"
        if status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}:
            raise AccessError(f"{message}; is NEXRL_ADMIN_KEY the one ingest was started with?")
        raise (_CallsMissingError if refused.type == _CALLS_MISSING else ServiceError)(message)


def _segment(value: str) -> str:
    return quote(value, safe="")


def _message(reply: bytes) -> str:
    return _error(reply).message


def _error(reply: bytes) -> _Refused:
    try:
        return msgspec.json.decode(reply, type=_ErrorBody).error
    except msgspec.DecodeError:
        return _Refused()
