"""Long polls: let a trainer wait for the first ready group, and answer within the size it asked for.

Which groups are ready is `pool.py`'s to say; here is only when to ask again, and where an answer stops.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial

from msgspec import structs

from nexrl.records import TrainingGroup, encode
from nexrl_ingest.assembly import measuring
from nexrl_ingest.groups import adopting, pool
from nexrl_ingest.groups.rules import SECOND_NS
from nexrl_ingest.refusals import UnreadableError
from nexrl_ingest.store import Store
from nexrl_ingest.wire import MIB, Leased, LeaseReply, LeaseRequest

LONGEST_NAP_S = 5.0
"""A client that hung up is noticed within this time."""
SHORT_NAP_S = 0.25
"""Where time alone may make a group ready, or other replicas are not heard."""
TOKEN_BYTES = 20
"""Of a sequence, as MessagePack: id, mask, logprob, weight version and temperature, 4 bytes each."""
SEQUENCE_BYTES = 400
"""What a sequence or a trajectory has besides its tokens, about."""
_log = logging.getLogger(__name__)


class Changes:
    """Wakes whoever waits for the pool to change."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self.closed = False
        """The server stops: nobody waits any longer."""
        self._leave: Callable[[], None] | None = None

    def follow(self, store: Store) -> None:
        """Announce what the store's bell rings for, until closed."""
        loop = asyncio.get_running_loop()

        def told() -> None:
            # The bell is rung by other threads, and may be while this one's loop ends.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self.announce)

        store.bell.listen(told)
        self._leave = partial(store.bell.leave, told)

    def announce(self) -> None:
        """Wake everybody who waits: a group may be ready."""
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """Let nobody wait any longer: the server stops."""
        if self._leave:
            self._leave()
        self.closed = True
        self.announce()

    async def nap(self, longest_s: float) -> None:
        """Return once something changed, or after `longest_s`."""
        await _nap(self._changed, longest_s)

    async def wait_for_groups(self, store: Store, request: LeaseRequest, *, gone: Callable[[], bool]) -> LeaseReply:
        """Lease ready groups, waiting up to `request.wait_s` for the first; none where `gone()` or closed."""
        grants = await self._wait_for_grants(store, request, gone)
        leased, unfit = await _assemble(store, request, grants)
        if unfit:
            given_back = [grant.lease for grant in unfit]
            await store.write(partial(pool.nack, leases=given_back, now_ns=time.time_ns()), tells=True)
        more = bool(unfit) or await store.read(partial(pool.more_are_ready, run=request.run))
        return LeaseReply(leased=leased, more=more)

    async def _wait_for_grants(self, store: Store, request: LeaseRequest, gone: Callable[[], bool]) -> list[pool.Grant]:
        deadline = time.monotonic() + request.wait_s
        while not gone():
            changed = self._changed
            await _prepare(store, request)
            grants = await store.write(partial(pool.lease, request=request, now_ns=time.time_ns()))
            left_s = deadline - time.monotonic()
            if grants or left_s <= 0 or self.closed:
                return grants
            request = structs.replace(request, steal=False)
            await _nap(changed, min(left_s, await _until_next_look(store, request)))
        return []


async def _nap(changed: asyncio.Event, longest_s: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(longest_s):
            await changed.wait()


async def _until_next_look(store: Store, request: LeaseRequest) -> float:
    """Return how long nothing can become ready that is not announced."""
    rule = request.rule or await store.read(partial(pool.rule_of, run=request.run))
    timed = request.external is not None or rule.quorum is not None or rule.max_staleness is not None
    if timed or not store.hears():
        return SHORT_NAP_S
    expires_ns = await store.read(partial(pool.next_expiry, run=request.run))
    left_s = LONGEST_NAP_S if expires_ns is None else (expires_ns - time.time_ns()) / SECOND_NS
    return max(0.0, min(left_s, LONGEST_NAP_S))


async def _prepare(store: Store, request: LeaseRequest) -> None:
    """See to what a lease decides on: groups of external sessions, and the age of what is final."""
    if request.external:
        await adopting.adopt(store, request.run, request.external)
    if request.weight_version is not None:
        rule = request.rule or await store.read(partial(pool.rule_of, run=request.run))
        if rule.max_staleness is not None:
            await measuring.measure(store, request.run)


async def _assemble(
    store: Store, request: LeaseRequest, grants: list[pool.Grant]
) -> tuple[list[Leased], list[pool.Grant]]:
    """Assemble groups one after another until the next would not fit, and return the others; the first always fits.

    One that cannot be read is dropped and holds up nobody.
    """
    leased: list[Leased] = []
    taken = 0
    for index, grant in enumerate(grants):
        try:
            item = await store.read(partial(pool.training_group, grant=grant))
        except UnreadableError as error:
            _log.warning("group %r is dropped: %s", grant.group, error)
            await store.write(partial(pool.drop_unreadable, run=request.run, grant=grant))
            continue
        taken += size_of(item.group)
        if leased and taken > request.max_mib * MIB:
            return leased, grants[index:]
        leased.append(item)
    return leased, []


def size_of(group: TrainingGroup) -> int:
    """Return how many bytes a group takes as MessagePack, about."""
    sequences = [one for trajectory in group.trajectories for one in trajectory.sequences]
    tokens = sum(len(one.ids) for one in sequences)
    return TOKEN_BYTES * tokens + SEQUENCE_BYTES * (len(sequences) + len(group.trajectories)) + len(encode(group.group))
