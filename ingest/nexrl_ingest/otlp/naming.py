"""Whose telemetry it is: the session that a span or a log record names, and the ids it must have."""

from collections.abc import Callable, Iterable, Mapping

from opentelemetry.proto.common.v1.common_pb2 import KeyValue

from nexrl import attributes as at
from nexrl.errors import PayloadError
from nexrl_ingest.refusals import ForbiddenError

SESSION_NAMES = (at.SESSION, at.CONVERSATION, "session.id")
"""What instrumentations call a session, in the order asked; the first is also the key of our W3C baggage entry."""
TRACE_ID_BYTES, SPAN_ID_BYTES = 16, 8
NO_TRACE, NO_SPAN = bytes(TRACE_ID_BYTES), bytes(SPAN_ID_BYTES)
LONGEST_SESSION = 1000


def check_ids(trace_id: bytes, span_id: bytes, what: Callable[[], str] = str) -> None:
    """Raise PayloadError unless both are ids as W3C Trace Context has them: of full length, and not all zeros."""
    if len(trace_id) != TRACE_ID_BYTES or len(span_id) != SPAN_ID_BYTES or trace_id == NO_TRACE or span_id == NO_SPAN:
        ids = f"trace id {trace_id[:20].hex()!r}, span id {span_id[:20].hex()!r}"
        raise PayloadError(f"{what()}: {ids} are no valid ids")


def texts_of(attributes: Iterable[KeyValue]) -> dict[str, str]:
    """Return attributes by name; of a value of another type the text is empty."""
    return {item.key: item.value.string_value for item in attributes}


def session_of(own: Mapping[str, str], resource: Mapping[str, str], attempt: str | None) -> str | None:
    """Return the session that telemetry belongs to, None where it names none, given its texts and its resource's.

    What an attempt key sends is its attempt's, whatever frameworks call their sessions; raises ForbiddenError where
    it names another attempt.
    """
    if attempt is None and (named := own.get(at.SESSION)):
        return checked(named)
    # Of one name the span's own value comes before its resource's, even one that is no text.
    given = {**resource, **own}
    texts = {name: given[name] for name in SESSION_NAMES if given.get(name)}
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
