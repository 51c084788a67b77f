"""Who called? From a request's path and headers to the attempt its tokens belong to.

Pure: reads no state and counts nothing. In this order: URL prefix, attempt key, `x-nexrl-session`, W3C baggage, W3C
trace id. Nothing an agent sends besides a valid key gives it a say over a session its key does not name.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from urllib.parse import unquote

from msgspec import Struct

from nexrl.errors import AccessError
from nexrl.keys import DERIVED_PREFIX, attempt_of, check_attempt_id, is_admin
from nexrl_proxy.errors import ApiError, forbidden, unauthorized

UNATTRIBUTED = "unattributed"
SESSION_HEADER = "x-nexrl-session"
AGENT_HEADER = "x-nexrl-agent"
GROUP_HEADER = "x-nexrl-group"
BAGGAGE_KEY = "nexrl.session"
LONGEST_NAME = 200
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(?:-.*)?")


class Caller(Struct, frozen=True, kw_only=True):
    """The attempt a call belongs to, and what the caller said of itself."""

    session: str
    """The attempt id, or `unattributed`."""
    agent: str | None = None
    group: str | None = None
    """The key of the sessions that this one is to be compared with."""
    trace_id: bytes | None = None
    """16 bytes, where the caller brought a W3C trace context."""
    parent_span: bytes = b""
    """8 bytes, or none."""


def caller_of(
    *,
    prefix: str | None,
    headers: Mapping[str, str],
    admin_key: str,
    require_session: bool = False,
    require_key: bool = False,
) -> Caller:
    """Return who called; `prefix` is the attempt named by the URL, header names are case-insensitive.

    Raises ApiError: 401 for a wrong key, with `require_key` for none and, with `require_session`, for a call nobody can
    be credited with; 403 for a key of another attempt than the one named, for one of ours that is no attempt's, and for
    the admin key where it names none; 400 for an id that cannot be one.
    """
    trace_id, parent_span = _trace_context(headers.get("traceparent", ""))
    keyed = _attempt_of_key(headers, admin_key)
    named = prefix or headers.get(SESSION_HEADER) or _from_baggage(headers.get("baggage", ""))
    if keyed and named and named != keyed:
        raise forbidden(f"the key belongs to attempt {keyed!r}, the request names {named!r}: use that attempt's key")
    if any(key.startswith(DERIVED_PREFIX) for key in presented_keys(headers)):
        raise forbidden("this key is not for model calls: give the agent an attempt key (`nexrl key ATTEMPT`)")
    if require_key and not keyed:
        raise unauthorized("no attempt key: set the API key to one (`nexrl key ATTEMPT`)")
    if not keyed and not named and any(is_admin(key, admin_key) for key in presented_keys(headers)):
        raise forbidden("this is the admin key, which no agent may hold: give it an attempt key (`nexrl key ATTEMPT`)")
    session = named or keyed or (trace_id.hex() if trace_id else None)
    if session is None and require_session:
        raise unauthorized(
            "no session: set the API key to an attempt key (`nexrl key ATTEMPT`), "
            f"the base URL to /s/ATTEMPT/v1, or the header {SESSION_HEADER}"
        )
    return Caller(
        session=_checked(session) if session else UNATTRIBUTED,
        agent=_name(headers.get(AGENT_HEADER)),
        group=_name(headers.get(GROUP_HEADER)),
        trace_id=trace_id,
        parent_span=parent_span,
    )


def require_admin(headers: Mapping[str, str], admin_key: str) -> None:
    """Raise ApiError unless the request carries the admin key."""
    keys = presented_keys(headers)
    if not keys:
        raise unauthorized("this route needs the admin key: send `Authorization: Bearer <admin key>`")
    if not any(is_admin(key, admin_key) for key in keys):
        raise forbidden("this key is not the admin key of this deployment")


def presented_keys(headers: Mapping[str, str]) -> list[str]:
    """Return the keys a request carries, as a bearer token or as `x-api-key`; raises ApiError where none can be one."""
    scheme, _, token = headers.get("authorization", "").partition(" ")
    keys = [token.strip() if scheme.lower() == "bearer" else "", headers.get("x-api-key", "").strip()]
    if not all(key.isascii() for key in keys):
        raise unauthorized("the key is not ASCII: send it as `nexrl key ATTEMPT` prints it")
    return [key for key in keys if key]


def _attempt_of_key(headers: Mapping[str, str], admin_key: str) -> str | None:
    try:
        attempts = {_attempt_of(key, admin_key) for key in presented_keys(headers)} - {None}
    except AccessError as error:
        raise unauthorized(str(error)) from error
    if len(attempts) > 1:
        raise forbidden("the bearer token and x-api-key belong to different attempts: send one of them")
    return attempts.pop() if attempts else None


_attempt_of = lru_cache(maxsize=4096)(attempt_of)
"""An agent sends the same key with each of its calls."""


def _name(header: str | None) -> str | None:
    """Return a header's text, cut to size; bytes that are not UTF-8, which could not be recorded, as U+FFFD."""
    if not header:
        return None
    return header.encode(errors="surrogateescape").decode(errors="replace")[:LONGEST_NAME]


def _checked(session: str) -> str:
    try:
        return check_attempt_id(session)
    except AccessError as error:
        raise ApiError(str(error), code="invalid_session") from error


def _from_baggage(baggage: str) -> str | None:
    for member in baggage.split(","):
        name, _, value = member.partition(";")[0].partition("=")
        if name.strip() == BAGGAGE_KEY:
            return unquote(value.strip()) or None
    return None


def _trace_context(traceparent: str) -> tuple[bytes | None, bytes]:
    """Return trace id and parent span; nothing where the header is absent or invalid, as W3C asks."""
    if not traceparent:
        return None, b""
    match = _TRACEPARENT.fullmatch(traceparent.strip())
    if not match or not int(match[1], 16) or not int(match[2], 16):
        return None, b""
    return bytes.fromhex(match[1]), bytes.fromhex(match[2])
