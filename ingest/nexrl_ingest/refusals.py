"""What ingest refuses to do, each with the HTTP status it answers.

Raised where the reason is known, turned into a reply once, in `app.py`.
"""

from typing import ClassVar

from nexrl.errors import NexrlError


class RefusedError(NexrlError):
    """A request that is answered with an error and changes nothing."""

    status: ClassVar[int] = 400
    type: ClassVar[str] = "invalid_request"


class NotFoundError(RefusedError):
    status = 404
    type = "not_found"


class ConflictError(RefusedError):
    status = 409
    type = "conflict"


class CallsMissingError(ConflictError):
    """The outcome came before its calls; the same request succeeds once they are here."""

    type = "calls_missing"


class UnauthenticatedError(RefusedError):
    status = 401
    type = "unauthenticated"


class ForbiddenError(RefusedError):
    status = 403
    type = "forbidden"


class TooLargeError(RefusedError):
    status = 413
    type = "too_large"


class UnsupportedError(RefusedError):
    status = 415
    type = "unsupported_media_type"


class UnreadableError(RefusedError):
    """What is stored of a session does not hold the calls that it must; asking again will not help."""

    status = 422
    type = "unreadable"


class UnavailableError(RefusedError):
    """The disk refused; nothing was stored, and the same request may succeed later."""

    status = 503
    type = "unavailable"
