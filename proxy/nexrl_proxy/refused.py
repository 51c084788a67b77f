"""Requests of attempts that got an error for an answer: an agent may swallow it, and nobody else would hear why.

Kept in memory, for the latest attempts; what was answered is the recorder's to count.
"""

from collections import OrderedDict

from aiohttp import web
from msgspec import Struct

from nexrl_proxy.conversation import remember
from nexrl_proxy.errors import ApiError

MOST = 16384
LONGEST = 500
"""Characters of a message that are kept: errors quote what was sent."""


class Refused(Struct, frozen=True, kw_only=True):
    """How many requests of an attempt got an error, and the last of these."""

    count: int
    status: int
    message: str


class Refusals:
    """By attempt."""

    def __init__(self) -> None:
        self._attempts: OrderedDict[str, Refused] = OrderedDict()

    def note(self, attempt: str, error: ApiError) -> None:
        before = self._attempts.get(attempt)
        count = before.count + 1 if before else 1
        refused = Refused(count=count, status=error.status, message=str(error)[:LONGEST])
        remember(self._attempts, attempt, refused, most=MOST)

    def of(self, attempt: str) -> Refused | None:
        return self._attempts.get(attempt)


REFUSALS: web.AppKey[Refusals] = web.AppKey("refusals", Refusals)
