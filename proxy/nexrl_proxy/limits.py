"""How much one session may ask: the size of a body, and requests a minute.

Pure but for the clock that is handed in. Holding requests while weights change is the pool's; nobody is told to come
back for that.
"""

import time
from collections import OrderedDict
from collections.abc import Callable
from math import ceil

from nexrl_proxy.conversation import remember
from nexrl_proxy.errors import ApiError

BODY_MB = 32
MOST_SESSIONS = 65536
ROUNDING = 1e-6
"""Who comes back when told to must not be refused for the last bit of a float."""


class Limits:
    """A bucket of one minute's requests for each session, filled evenly; without `per_minute` there is no limit."""

    def __init__(
        self, *, body_mb: int = BODY_MB, per_minute: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.body_bytes = body_mb * 2**20
        self._per_minute = per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def admit(self, session: str) -> None:
        """Count a request; raises ApiError 429 where the session asks too often."""
        if self._per_minute is None:
            return
        now = self._clock()
        left, then = self._buckets.get(session, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + (now - then) * self._per_minute / 60)
        admitted = left >= 1 - ROUNDING
        remember(self._buckets, session, (left - 1 if admitted else left, now), most=MOST_SESSIONS)
        if not admitted:
            wait = ceil((1 - left) * 60 / self._per_minute)
            raise ApiError(
                f"session {session!r} asks more than {self._per_minute} times a minute: wait {wait} s",
                status=429,
                kind="rate_limit_error",
                code="rate_limit_exceeded",
                retry_after_s=wait,
            )
