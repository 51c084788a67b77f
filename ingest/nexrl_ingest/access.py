"""Who may do what: five kinds of keys, and which of them reaches a route.

Keys come as `Authorization: Bearer KEY`; they are read and compared in constant time in `nexrl.keys`. Which kinds a
route lets in is declared with the route (`api/`); an attempt key and a reward grant reach their own session alone.
"""

from typing import NamedTuple

from nexrl.errors import AccessError
from nexrl.keys import Kind, holder_of
from nexrl_ingest.refusals import ForbiddenError, UnauthenticatedError

EVERYBODY: frozenset[Kind] = frozenset({"admin", "trainer", "read", "attempt", "reward"})
READERS: frozenset[Kind] = frozenset({"admin", "trainer", "read"})
"""Who reads everything."""
SESSION_READERS: frozenset[Kind] = frozenset({*READERS, "attempt"})
TRAINERS: frozenset[Kind] = frozenset({"admin", "trainer"})
JUDGES: frozenset[Kind] = frozenset({"admin", "trainer", "attempt", "reward"})
REPORTERS: frozenset[Kind] = frozenset({"admin", "attempt"})
"""Who sends telemetry; model calls the admin key alone, since what is trained must have been sampled."""


class Caller(NamedTuple):
    """Whose key a request carries."""

    kind: Kind
    session: str | None = None
    """The one session that an attempt key or a reward grant reaches."""

    @property
    def attempt(self) -> str | None:
        """The attempt of an attempt key; None for every other kind."""
        return self.session if self.kind == "attempt" else None


def caller_of(authorization: str, admin_key: str) -> Caller:
    """Return whose key it is; raises UnauthenticatedError where it is missing or nobody's."""
    scheme, _, key = authorization.strip().partition(" ")
    key = key.strip()
    if scheme.lower() != "bearer" or not key or not key.isascii():
        raise UnauthenticatedError("no key: send `Authorization: Bearer KEY`; `nexrl key --help` says which there are")
    try:
        holder = holder_of(key, admin_key)
    except AccessError as error:
        raise UnauthenticatedError(str(error)) from error
    if holder is None:
        raise UnauthenticatedError("the key is neither the admin key nor derived from it: was the admin key changed?")
    return Caller(*holder)


def require(caller: Caller, kinds: frozenset[Kind], session: str | None = None) -> None:
    """Let these kinds pass; a key of one session only to that one. Raises ForbiddenError."""
    owner = f"the {caller.kind} key" if caller.session is None else f"the {caller.kind} key of {caller.session!r}"
    if caller.kind not in kinds:
        raise ForbiddenError(f"{owner} cannot do this; use a key of kind {' or '.join(sorted(kinds))}")
    if caller.session is not None and session is not None and caller.session != session:
        raise ForbiddenError(f"{owner} does not reach session {session!r}")
