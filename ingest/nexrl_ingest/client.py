"""The trainer's side of ingest's HTTP door: one method per route, pages put together.

Every call may be repeated: what was already done is done once. How often a request is tried is `transport.py`'s part.
"""

import asyncio
import secrets
import time
from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote, urlencode

import aiohttp
import msgspec
import zstandard

from nexrl import wire
from nexrl.records import Attempt, Call, Group, Outcome, Reward, decode, encode
from nexrl.spans import span_bytes
from nexrl_ingest.groups.external import External, ExternalState
from nexrl_ingest.groups.rules import Rule
from nexrl_ingest.transport import FIRST_PAUSE_S, LONGEST_PAUSE_S, CallsMissingError, Transport
from nexrl_ingest.wire import (
    GroupPage,
    GroupRecord,
    GroupState,
    Leased,
    LeaseIds,
    LeaseReply,
    LeaseRequest,
    RewardRequest,
    RolloutState,
    RunPage,
    RunState,
    SessionPage,
    SessionSummary,
)

__all__ = ["External", "ExternalState", "GroupState", "IngestClient", "Leased", "RewardRequest", "RolloutState", "Rule"]

T = TypeVar("T")
GIVE_UP_S = 30.0
"""How long a service that is away is tried again."""
CALLS_DEADLINE_S = 60.0
"""How long an outcome waits for its calls to arrive."""
PAGE = 200
SPANS_AT_ONCE = 64
IDS_AT_ONCE = 40
"""In one query: a line of a request must stay below 8 KiB."""
_Pairs = list[tuple[str, str | int]]


class IngestClient:
    """Talks to one ingest with the admin key; `http` stays the caller's to close."""

    def __init__(
        self, url: str, admin_key: str, http: aiohttp.ClientSession | None = None, *, give_up_s: float = GIVE_UP_S
    ) -> None:
        self.url = url.rstrip("/")
        self._transport = Transport(self.url, admin_key, http, give_up_s)
        self._request = self._transport.request

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        await self._transport.close()

    async def put_group(self, group: Group) -> None:
        """Create a group; raises ServiceError where its id is taken by another."""
        await self._request("PUT", f"/api/groups/{_segment(group.id)}", encode(group))

    async def put_attempt(self, attempt: Attempt) -> None:
        """Create an attempt of a group that exists."""
        await self._request("PUT", f"/api/attempts/{_segment(attempt.id)}", encode(attempt))

    async def put_outcome(self, attempt: str, outcome: Outcome, *, deadline_s: float = CALLS_DEADLINE_S) -> None:
        """Finish an attempt, waiting up to `deadline_s` for its calls; raises ServiceError where they do not come."""
        deadline, pause_s = time.monotonic() + deadline_s, FIRST_PAUSE_S
        while True:
            try:
                await self._request("PUT", f"/api/attempts/{_segment(attempt)}/outcome", encode(outcome))
            except CallsMissingError:
                if time.monotonic() + pause_s > deadline:
                    raise
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                return

    async def session(self, session: str) -> dict[str, Any]:
        """Return a session's calls, chains, drift and rewards."""
        return msgspec.json.decode(
            await self._request("GET", f"/api/sessions/{_segment(session)}"), type=dict[str, Any]
        )

    async def calls(self, session: str) -> list[Call]:
        """Return every call of a session, inexact ones and those without their parent too."""
        reply = await self._request("GET", f"/api/sessions/{_segment(session)}/calls?all=true")
        return decode(zstandard.ZstdDecompressor().decompress(reply), list[Call])

    async def sessions(
        self, *, run: str | None = None, session: str | None = None, limit: int | None = None
    ) -> list[SessionSummary]:
        """Return captured sessions, the latest first: up to `limit`, or all."""
        asked: _Pairs = [(name, value) for name, value in (("run", run), ("session", session)) if value is not None]
        found: list[SessionSummary] = []
        before: int | None = None
        while True:
            page_size = min(PAGE, limit - len(found)) if limit else PAGE
            cursor: _Pairs = [("before", before)] if before else []
            page = await self._page("/api/sessions", [*asked, *cursor, ("limit", page_size)], SessionPage)
            found += page.sessions
            before = page.next
            if before is None or (limit and len(found) >= limit):
                return found

    async def rewards(self, session: str) -> list[Reward]:
        """Return every reward of a session, in order of arrival."""
        return await self._page(f"/api/sessions/{_segment(session)}/rewards", [], list[Reward])

    async def put_calls(self, calls: Iterable[Call], prompt_tokens: Mapping[str, int]) -> None:
        """Store model calls, as the proxy does; `prompt_tokens` are the lengths of whole prompts, where known."""
        spans = [span_bytes(call, prompt_tokens=prompt_tokens.get(call.id, 0)) for call in calls]
        for start in range(0, len(spans), SPANS_AT_ONCE):
            body = wire.request(spans[start : start + SPANS_AT_ONCE], service="nexrl-replay", scope="nexrl")
            await self._request("POST", "/v1/traces", body, content_type="application/x-protobuf")

    async def run(self, run: str) -> RunState:
        """Return a run's totals; raises ServiceError for one without groups."""
        return await self._page(f"/api/runs/{_segment(run)}", [], RunState)

    async def group(self, group: str) -> GroupRecord:
        """Return a group as it was planned, with all its attempts."""
        return await self._page(f"/api/groups/{_segment(group)}", [], GroupRecord)

    async def runs(self) -> list[str]:
        """Return the names of all runs, in their order."""
        found: list[str] = []
        after: str | None = ""
        while after is not None:
            page = msgspec.json.decode(
                await self._request("GET", f"/api/runs?{urlencode({'after': after, 'limit': PAGE})}"), type=RunPage
            )
            found += [item.run for item in page.runs]
            after = page.next
        return found

    async def groups(self, run: str, ids: Iterable[str] | None = None) -> list[GroupState]:
        """Return the groups of a run with these ids, or all of them, in order of creation."""
        if ids is None:
            return await self._groups(run, [])
        wanted = list(dict.fromkeys(ids))
        parts = [wanted[start : start + IDS_AT_ONCE] for start in range(0, len(wanted), IDS_AT_ONCE)]
        return [state for part in parts for state in await self._groups(run, [("id", id_) for id_ in part])]

    async def put_rule(self, run: str, rule: Rule) -> None:
        """Say when a run's groups are ready and which are dropped."""
        await self._request("PUT", f"/api/runs/{_segment(run)}/rule", msgspec.json.encode(rule))

    async def lease(
        self,
        run: str,
        *,
        limit: int = 1,
        wait_s: float = 0.0,
        lease_s: float = 600.0,
        steal: bool = False,
        rule: Rule | None = None,
        weight_version: int | None = None,
        external: External | None = None,
        max_mib: float = 64.0,
    ) -> list[Leased]:
        """Lease up to `limit` ready groups, waiting up to `wait_s` for the first; fewer where they would not fit.

        A reply that is lost on the way is asked for again by the same name, so that no grant waits for its expiry.
        """
        request = LeaseRequest(
            run=run,
            limit=limit,
            wait_s=wait_s,
            lease_s=lease_s,
            steal=steal,
            request=secrets.token_hex(16),
            max_mib=max_mib,
            rule=rule,
            weight_version=weight_version,
            external=external,
        )
        body = await self._request("POST", "/api/groups/lease", msgspec.json.encode(request), wait_s=wait_s)
        return decode(zstandard.ZstdDecompressor().decompress(body), LeaseReply).leased

    async def reward(self, session: str, reward: RewardRequest) -> Reward:
        """Give a session a reward; with an id it is kept once, however often it is sent."""
        body = await self._request("POST", f"/api/sessions/{_segment(session)}/rewards", msgspec.json.encode(reward))
        return msgspec.json.decode(body, type=Reward)

    async def external(self, run: str, external: External) -> ExternalState:
        """Return how the sessions stand that nobody planned, and what a run left out of them."""
        path = f"/api/runs/{_segment(run)}/external"
        body = await self._request("POST", path, msgspec.json.encode(external))
        return msgspec.json.decode(body, type=ExternalState)

    async def ack(self, leases: list[str]) -> None:
        """Take leased groups out of the pool for good; raises ServiceError where a lease ran out."""
        await self._request("POST", "/api/leases/ack", msgspec.json.encode(LeaseIds(leases=leases)))

    async def nack(self, leases: list[str]) -> None:
        """Give leased groups back at once."""
        await self._request("POST", "/api/leases/nack", msgspec.json.encode(LeaseIds(leases=leases)))

    async def _groups(self, run: str, asked: _Pairs) -> list[GroupState]:
        found: list[GroupState] = []
        after: int | None = 0
        while after is not None:
            query: _Pairs = [*asked, ("after", after), ("limit", PAGE)]
            page = await self._page(f"/api/runs/{_segment(run)}/groups", query, GroupPage)
            found += page.groups
            after = page.next
        return found

    async def _page(self, path: str, query: _Pairs, kind: type[T]) -> T:
        asked = f"{path}?{urlencode(query)}" if query else path
        return msgspec.json.decode(await self._request("GET", asked), type=kind)


def _segment(value: str) -> str:
    return quote(value, safe="")
