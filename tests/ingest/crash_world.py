"""A load that remembers what it was promised, and the checks that every promise was kept.

Writers send spans, a planner finishes groups, trainers lease and ack, all at once, until the server is gone; what was
acknowledged is remembered, what was under way counts as either. Used by the short tests here and by the soak.
"""

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import aiohttp
from ingest_world import ADMIN_KEY, call, group, request_of

from nexrl.errors import ServiceError
from nexrl.records import Attempt, Call, Outcome
from nexrl_ingest.client import IngestClient

RUN = "run-1"
WRITERS, TRAINERS = 4, 2
FOR_GOOD_S = 86_400.0
"""A lease that does not run out while a test runs."""


@dataclass
class Promised:
    """What was acknowledged."""

    calls: dict[str, Call] = field(default_factory=dict)
    finished: set[str] = field(default_factory=set)
    """Groups whose last outcome was."""
    handed: Counter[str] = field(default_factory=Counter)
    """Groups that came in a lease, and how often."""
    held: dict[str, str] = field(default_factory=dict)
    """Their leases, where nobody tried to ack them."""
    acked: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)
    """Groups whose ack was sent and never answered."""
    refusals: int = 0
    """Of requests that were told to come again."""


class Load:
    """Everything at once against one or several servers; `patient`: a server that is away is waited for."""

    def __init__(self, promised: Promised, seed: int, *, patient: bool = False) -> None:
        self.promised = promised
        self._draw = random.Random(seed)
        self._patient = patient
        self._names = itertools.count()
        self._prefix = f"{seed}"
        self.stopping = False

    async def run(self, *urls: str) -> None:
        """Return once every server is gone, or soon after `stopping` was set."""
        async with aiohttp.ClientSession() as http:
            tasks: list[Awaitable[None]] = []
            for url in urls:
                client = IngestClient(url, ADMIN_KEY, http, give_up_s=30.0 if self._patient else 0.0)
                tasks += [self._until_gone(lambda url=url: self._write(http, url)) for _ in range(WRITERS)]
                tasks += [self._until_gone(lambda client=client: self._plan(client))]
                tasks += [self._until_gone(lambda client=client: self._train(client)) for _ in range(TRAINERS)]
            await asyncio.gather(*tasks)

    async def _until_gone(self, step: Callable[[], Awaitable[None]]) -> None:
        with suppress(aiohttp.ClientError, ServiceError, OSError):
            while not self.stopping:
                await step()

    async def _write(self, http: aiohttp.ClientSession, url: str) -> None:
        session = f"session-{self._prefix}-{self._draw.randrange(4)}"
        calls = [call(range(self._draw.randrange(80)), [1, 2], session=session) for _ in range(4)]
        body = request_of(*calls).SerializeToString()
        headers = {"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/x-protobuf"}
        # At least once: some come again although they were acknowledged.
        for _ in range(self._draw.choice([1, 1, 2])):
            async with http.post(f"{url}/v1/traces", data=body, headers=headers) as response:
                await response.read()
                if response.status == 503:
                    assert response.headers["Retry-After"]
                    self.promised.refusals += 1
                    await asyncio.sleep(0.02)
                    return
                assert response.status == 200
            self.promised.calls |= {item.id: item for item in calls}

    async def _plan(self, client: IngestClient) -> None:
        name = f"group-{self._prefix}-{next(self._names)}"
        await client.put_group(group(name, size=1))
        await client.put_attempt(Attempt(id=f"{name}-0", group=name, rollout=0))
        await client.put_outcome(f"{name}-0", Outcome(status="completed"))
        self.promised.finished.add(name)

    async def _train(self, client: IngestClient) -> None:
        for leased in await client.lease(RUN, limit=2, lease_s=FOR_GOOD_S):
            name = leased.group.group.id
            self.promised.handed[name] += 1
            self.promised.held[name] = leased.lease
            if self._draw.random() < 0.5:
                self.promised.unsure.add(name)
                del self.promised.held[name]
                await client.ack([leased.lease])
                self.promised.unsure.discard(name)
                self.promised.acked.add(name)
        await asyncio.sleep(0.005)


async def check(url: str, promised: Promised, sessions: Iterable[str]) -> None:
    """Assert what must hold after every restart."""
    async with aiohttp.ClientSession() as http:
        client = IngestClient(url, ADMIN_KEY, http, give_up_s=0)
        found = [item for session in sessions for item in await _calls(client, session)]
        by_id = {item.id: item for item in found}
        assert len(found) == len(by_id), "a span is there twice"
        expected = {id_: item for id_, item in promised.calls.items() if item.session in set(sessions)}
        assert {id_: by_id.get(id_) for id_ in expected} == expected, "an acknowledged span is gone or another"
        states = {item.id: item.state for item in await client.groups(RUN)}
        assert promised.finished <= set(states)
        assert {states[name] for name in promised.acked} <= {"done"}
        assert {states[name] for name in promised.held} <= {"leased"}
        open_still = promised.finished - promised.acked - promised.unsure
        assert {states[name] for name in open_still} <= {"ready", "leased"}
        assert set(promised.handed.values()) <= {1}, "a group was leased to two at a time"


async def drain(url: str, promised: Promised) -> None:
    """Take over all leases, as a restarted trainer does, and assert that every group not acked comes exactly once."""
    async with IngestClient(url, ADMIN_KEY) as client:
        states = {item.id: item.state for item in await client.groups(RUN)}
        got: list[str] = []
        leased = await client.lease(RUN, limit=100, lease_s=FOR_GOOD_S, steal=True)
        while leased:
            got += [item.group.group.id for item in leased]
            await client.ack([item.lease for item in leased])
            leased = await client.lease(RUN, limit=100, lease_s=FOR_GOOD_S)
        assert len(got) == len(set(got))
        assert set(got) == {name for name, state in states.items() if state in {"ready", "leased"}}
        assert promised.finished - promised.acked - promised.unsure <= set(got)
        assert not promised.acked & set(got), "an acked group came again"
        assert {item.state for item in await client.groups(RUN)} <= {"done", "open"}


def sessions_of(seed: int) -> list[str]:
    """Return the sessions that a load with this seed writes to."""
    return [f"session-{seed}-{number}" for number in range(4)]


async def _calls(client: IngestClient, session: str) -> list[Call]:
    try:
        return await client.calls(session)
    except ServiceError as error:
        if "is unknown" not in str(error):
            raise
        return []
