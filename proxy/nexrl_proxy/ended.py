"""Attempts that have ended: whoever still calls as one of them is refused, so that nothing is sampled nobody judged.

Kept in memory, the latest ones: a process that an agent left behind calls soon, or not at all.
"""

from collections import OrderedDict

from nexrl_proxy.conversation import remember
from nexrl_proxy.errors import ApiError

MOST = 65536


class Ended:
    """Attempts by id."""

    def __init__(self) -> None:
        self._attempts: OrderedDict[str, None] = OrderedDict()

    def add(self, attempt: str) -> None:
        remember(self._attempts, attempt, None, most=MOST)

    def refuse(self, attempt: str) -> None:
        """Raise ApiError where an attempt has ended."""
        if attempt in self._attempts:
            raise ApiError(
                f"attempt {attempt!r} has ended, and its key with it: make calls before the agent ends",
                status=403,
                kind="permission_error",
                code="session_ended",
            )
