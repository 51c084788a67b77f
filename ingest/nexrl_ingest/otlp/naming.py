"""Whose telemetry it is: the session that a span or a log record names, and the ids it must have."""

from collections.abc import Iterable

from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from nexrl import attributes as at
from nexrl.errors import PayloadError
from nexrl_ingest.refusals import ForbiddenError

SESSION_NAMES = (at.SESSION, at.CONVERSATION, "session.id")
"""What instrumentations call a session, in the order asked; the first is also the key of our W3C baggage entry."""
TRACE_ID_BYTES, SPAN_ID_BYTES = 16, 8
LONGEST_SESSION = 1000


def check_ids(trace_id: bytes, span_id: bytes, what: str) -> None:
    """Raise PayloadError unless both are ids as W3C Trace Context has them: of full length, and not all zeros."""
    proper = len(trace_id) == TRACE_ID_BYTES and len(span_id) == SPAN_ID_BYTES and any(trace_id) and any(span_id)
    if not proper:
        raise PayloadError(f"{what}: trace id {trace_id[:20].hex()!r}, span id {span_id[:20].hex()!r} are no valid ids")


def session_of(own: Iterable[KeyValue], resource: Iterable[KeyValue], attempt: str | None) -> str | None:
    """Return the session that telemetry belongs to, None where it names none.

    What an attempt key sends is its attempt's, whatever frameworks call their sessions; raises ForbiddenError where
    it names another attempt.
    """
    # Of one name the span's own value comes before its resource's.
    texts = {item.key: item.value.string_value for found in (resource, own) for item in found if _names(item)}
    if attempt is None:
        return next((checked(texts[name]) for name in SESSION_NAMES if name in texts), None)
    if (named := texts.get(at.SESSION, attempt)) != attempt:
        raise ForbiddenError(
            f"the key of attempt {attempt!r} cannot report for session {named[:80]!r}; use that one's key"
        )
    return attempt


def checked(session: str) -> str:
    """Return the name of a session; raises PayloadError where no store and no URL could hold it."""
    if len(session) > LONGEST_SESSION or "\0" in session:
        raise PayloadError(
            f"session {session[:80]!r}: a name has at most {LONGEST_SESSION} characters, none of them NUL"
        )
    return session


def _names(item: KeyValue) -> bool:
    return item.key in SESSION_NAMES and bool(item.value.string_value)
