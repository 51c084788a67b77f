"""What engines answer when something is wrong, as what it means: ApiError for a refusal, EngineLost for a failure.

A refusal is about the request, and asking again will not help. A failure is about the engine, and it may. What the
operator got wrong (the URL, the key, the kind) is neither: it is answered once, with its remedy.
"""

from typing import Any

import msgspec

from nexrl_proxy.engines import EngineLost
from nexrl_proxy.errors import ApiError

OK = 200
MULTIPLE_CHOICES = 300
BAD_REQUEST = 400
UNAUTHORIZED, FORBIDDEN, NOT_FOUND, NOT_ALLOWED, TIMED_OUT = 401, 403, 404, 405, 408
TOO_MANY = 429
SERVER_ERROR = 500
LONGEST_MESSAGE = 2000
_REMEDIES = {
    UNAUTHORIZED: "give the engine's own key",
    FORBIDDEN: "give the engine's own key",
    NOT_FOUND: "is --engine its base URL, and is --engine-kind right?",
    NOT_ALLOWED: "is --engine its base URL, and is --engine-kind right?",
}


def lost(url: str, reason: Exception | str, *, remedy: str = "is it running, and does --engine name it?") -> EngineLost:
    """Return what to raise where the engine cannot be reached or went away."""
    return EngineLost(f"engine {url}: {reason}; {remedy}")


def misconfigured(url: str, reason: str, remedy: str) -> ApiError:
    """Return what to raise where trying again cannot help, and the client cannot either."""
    return ApiError(f"engine {url}: {reason}; {remedy}", status=502, kind="api_error", code="engine_misconfigured")


def refused(message: str, *, status: int = BAD_REQUEST) -> ApiError:
    """Return the engine's refusal as the client's error; one about the length gets OpenAI's code for that."""
    words = message.lower()
    length = "context" in words and ("long" in words or "exceed" in words or "maximum" in words)
    code = "context_length_exceeded" if length else "engine_refused"
    kind = "rate_limit_error" if status == TOO_MANY else "invalid_request_error"
    return ApiError(f"the engine refuses the request: {message}", status=status, kind=kind, code=code)


def failure(url: str, status: int, body: bytes) -> ApiError | EngineLost:
    """Return what to raise for an answer that is no success, from an engine that is ours."""
    if status in _REMEDIES:
        return misconfigured(url, f"HTTP {status}: {message_of(body)}", _REMEDIES[status])
    if BAD_REQUEST <= status < SERVER_ERROR and status not in (TIMED_OUT, TOO_MANY):
        return refused(message_of(body))
    return lost(url, f"HTTP {status}: {message_of(body)}")


def upstream_failure(url: str, status: int, body: bytes) -> ApiError | EngineLost:
    """Return what to raise for an answer that is no success, from an upstream that serves others too.

    An unknown model and a rate limit are its clients' to know.
    """
    if status in (NOT_FOUND, TOO_MANY):
        return refused(message_of(body), status=status)
    return failure(url, status, body)


def event_failure(url: str, body: bytes, *, began: bool) -> ApiError | EngineLost:
    """Return what to raise for an error inside a stream; once tokens came, it cannot be about the request."""
    message, status = message_of(body), code_of(body)
    if began or status >= SERVER_ERROR or status == TOO_MANY:
        return lost(url, message, remedy="its own log says more")
    return refused(message)


def message_of(body: bytes) -> str:
    """Return the message of an error body, in any of the shapes engines use."""
    try:
        found: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return body[:LONGEST_MESSAGE].decode(errors="replace") or "no reason given"
    while isinstance(found, dict):
        found = found.get("error") or found.get("message") or found.get("detail") or str(found)
    return str(found)[:LONGEST_MESSAGE]


def code_of(body: bytes) -> int:
    """Return the status an error event stands for: its code, or else what its type says."""
    found: Any = msgspec.json.decode(body)
    error = found.get("error") if isinstance(found, dict) else None
    if not isinstance(error, dict):
        return BAD_REQUEST
    for code in (error.get("code"), error.get("status")):
        if isinstance(code, int):
            return code
    kind = str(error.get("type", "")).lower().replace("_", "")
    return SERVER_ERROR if "engine" in kind or "server" in kind or "unavailable" in kind else BAD_REQUEST
