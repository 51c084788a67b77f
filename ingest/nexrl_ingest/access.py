"""Who may do what: the admin key everything, an attempt key only what concerns its own session.

Keys come as `Authorization: Bearer KEY` and are compared in constant time, in `nexrl.keys`.
"""

from typing import NamedTuple

from nexrl.errors import AccessError
from nexrl.keys import attempt_of, is_admin
from nexrl_ingest.refusals import ForbiddenError, UnauthenticatedError


class Caller(NamedTuple):
    """Whose key a request carries."""

    attempt: str | None
    """The attempt of an attempt key; None for the admin key."""


def caller_of(authorization: str, admin_key: str) -> Caller:
    """Return whose key it is; raises UnauthenticatedError where it is missing or nobody's."""
    scheme, _, key = authorization.strip().partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key or not key.isascii():
        raise UnauthenticatedError("no key: send `Authorization: Bearer KEY` with the admin key or an attempt key")
    if is_admin(key, admin_key):
        return Caller(attempt=None)
    try:
        attempt = attempt_of(key, admin_key)
    except AccessError as error:
        raise UnauthenticatedError(str(error)) from error
    if attempt is None:
        raise UnauthenticatedError("the key is neither the admin key nor an attempt key: was the admin key changed?")
    return Caller(attempt=attempt)


def require_admin(caller: Caller) -> None:
    if caller.attempt is not None:
        raise ForbiddenError(f"the key of attempt {caller.attempt!r} cannot do this; use the admin key")


def require_session(caller: Caller, session: str) -> None:
    """Let the admin and the session's own key pass."""
    if caller.attempt not in {None, session}:
        raise ForbiddenError(f"the key of attempt {caller.attempt!r} does not reach session {session!r}")
