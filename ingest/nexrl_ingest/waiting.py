"""Long polls: let a trainer wait for the first ready group.

Which groups are ready is `pool.py`'s to say; here is only when to ask again.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable
from functools import partial

from msgspec import structs

from nexrl_ingest import pool
from nexrl_ingest.store import Store
from nexrl_ingest.wire import LeaseRequest

LONGEST_NAP_S = 0.25
"""A lease that ran out, and a client that hung up, are noticed within this time."""


class Changes:
    """Wakes whoever waits for the pool to change."""

    def __init__(self) -> None:
        self._changed = asyncio.Event()
        self._closed = False

    def announce(self) -> None:
        """Wake everybody who waits: a group may be ready."""
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """Let nobody wait any longer: the server stops."""
        self._closed = True
        self.announce()

    async def wait_for_grants(
        self, store: Store, request: LeaseRequest, *, gone: Callable[[], bool]
    ) -> list[pool.Grant]:
        """Lease ready groups, waiting up to `request.wait_s` for the first; none where `gone()` or closed."""
        deadline = time.monotonic() + request.wait_s
        while not gone():
            changed = self._changed
            grants = await store.write(partial(pool.lease, request=request, now_ns=time.time_ns()))
            left_s = deadline - time.monotonic()
            if grants or left_s <= 0 or self._closed:
                return grants
            request = structs.replace(request, steal=False)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(left_s, LONGEST_NAP_S)):
                    await changed.wait()
        return []
