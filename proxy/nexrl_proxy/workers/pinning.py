"""Which worker a request belongs to. Pure: a function of the session it names, the same in every worker.

Who may do what is checked where a request is answered; a request that names no session, or one it may not, is
answered wherever it arrived.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote
from zlib import crc32

from msgspec import Struct
from multidict import CIMultiDict

from nexrl_proxy.attribution import SESSION_HEADER, UNATTRIBUTED, caller_of
from nexrl_proxy.errors import ApiError

MOST_REMEMBERED = 8192
_NAMES: tuple[str, ...] = ("authorization", "x-api-key", SESSION_HEADER, "baggage", "traceparent")
_HEADER = re.compile(f"\n({'|'.join(_NAMES)}):[ \t]*([^\r\n]*)", re.IGNORECASE)
_TARGET = re.compile(r"[^ ]+ (?:https?://[^/ ]+)?([^? ]*)")
_AGENT = re.compile(r"/s/([^/]+)/v1/")
_OPERATOR = re.compile(r"/api/sessions/([^/]+)/")


class Pinning(Struct, frozen=True):
    """What one of several workers knows about who has which session."""

    index: int
    workers: int
    admin_key: str

    def elsewhere(self, path: str, headers: Mapping[str, str]) -> int | None:
        """Return the other worker that must answer a request; None where this one may."""
        session = session_of(path, headers, self.admin_key)
        owner = self.index if session is None else owner_of(session, self.workers)
        return None if owner == self.index else owner


def owner_of(session: str, workers: int) -> int:
    """Return the worker a session lives in."""
    return crc32(session.encode()) % workers


def session_of(path: str, headers: Mapping[str, str], admin_key: str) -> str | None:
    """Return the session a request is about, None where it names none."""
    if asked := _OPERATOR.match(path):
        return unquote(asked[1])
    prefix = _AGENT.match(path)
    return _named(prefix[1] if prefix else None, tuple(headers.get(name, "") for name in _NAMES), admin_key)


@lru_cache(maxsize=MOST_REMEMBERED)
def _named(prefix: str | None, values: tuple[str, ...], admin_key: str) -> str | None:
    """Return who calls. Remembered, because a session's calls say it with the same words, and signatures take time."""
    headers = dict(zip(_NAMES, values, strict=True))
    try:
        session = caller_of(prefix=unquote(prefix) if prefix else None, headers=headers, admin_key=admin_key).session
    except ApiError:
        return None
    return None if session == UNATTRIBUTED else session


def read_head(data: bytes) -> tuple[str, Mapping[str, str]]:
    """Return the path and those headers that say who calls.

    Only a guess for where to bring a connection: what the HTTP server reads is checked again.
    """
    head = data.partition(b"\r\n\r\n")[0].decode("latin-1")
    target = _TARGET.match(head)
    return target[1] if target else "", CIMultiDict(_HEADER.findall(head))
