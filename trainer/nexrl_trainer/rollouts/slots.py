"""So many at a time, and whose turn it is: evaluation before training, older groups before newer ones.

Also keeps the time: how long anything ran, and how much ran altogether, for the shares of idle time in the metrics.
"""

import asyncio
import heapq
import itertools
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple

Priority = tuple[int, ...]
"""The lowest goes first. Example: (0, 7) before (1, 3)."""


class Spent(NamedTuple):
    """Seconds, counted from the start."""

    busy_s: float
    """During which at least one slot was taken."""
    taken_s: float
    """Summed over slots."""


NOTHING = Spent(0.0, 0.0)


class Slots:
    """`count` slots, handed out by priority and, among equals, first come first served."""

    def __init__(self, count: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.count = count
        self._clock = clock
        self._free = count
        self._waiting: list[tuple[Priority, int, asyncio.Future[None]]] = []
        self._arrivals = itertools.count()
        self._spent = NOTHING
        self._counted = clock()

    @asynccontextmanager
    async def turn(self, priority: Priority) -> AsyncGenerator[None]:
        """Hold a slot for the length of the block, once it is this one's turn."""
        await self._acquire(priority)
        try:
            yield
        finally:
            self._count()
            self._free += 1
            self._hand_out()

    def spent(self) -> Spent:
        """Return the time spent until now."""
        self._count()
        return self._spent

    async def _acquire(self, priority: Priority) -> None:
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._waiting, (priority, next(self._arrivals), granted))
        self._hand_out()
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():  # handed out in the moment of the cancellation
                self._count()
                self._free += 1
                self._hand_out()
            raise

    def _hand_out(self) -> None:
        while self._free and self._waiting:
            *_, granted = heapq.heappop(self._waiting)
            if not granted.done():
                self._count()
                self._free -= 1
                granted.set_result(None)

    def _count(self) -> None:
        """Add the time since it was counted last: nothing was taken or freed in between."""
        now, running = self._clock(), self.count - self._free
        passed, self._counted = now - self._counted, now
        busy_s, taken_s = self._spent
        self._spent = Spent(busy_s + (passed if running else 0.0), taken_s + passed * running)
