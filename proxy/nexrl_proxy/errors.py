"""What went wrong with a request, in terms every dialect can put in its own shape.

The engine's and the template's failures are translated into these once, where they happen; a dialect renders them.
"""

from nexrl.errors import NexrlError


class ApiError(NexrlError):
    """A request that gets an error for an answer."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 400,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        retry_after_s: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s


def unsupported(param: str, message: str) -> ApiError:
    """Return the refusal of a parameter that would change the result and cannot be honoured."""
    return ApiError(message, param=param, code="unsupported_parameter")


def too_long(prompt: int, context: int, *, at_least: bool = False) -> ApiError:
    """Return the refusal of a prompt that leaves no room for a reply, of `prompt` tokens or `at_least` as many.

    It begins as OpenAI's does: frameworks know by these words that the conversation is full, and not their request bad.
    """
    found = f"more than {prompt}" if at_least else prompt
    return ApiError(
        f"This model's maximum context length is {context} tokens, and the prompt has {found} tokens: "
        "shorten the messages",
        param="messages",
        code="context_length_exceeded",
    )


def too_large(most: int) -> ApiError:
    """Return the refusal of a body of more than `most` bytes."""
    message = f"the body is larger than {most // 2**20} MiB: shorten it, or start the proxy with a larger --max-body-mb"
    return ApiError(message, status=413, code="request_too_large")


def too_deep() -> ApiError:
    """Return the refusal of JSON that is nested deeper than can be read."""
    return ApiError("the request is nested too deep: send at most a few hundred levels")


def broken() -> ApiError:
    """Return the answer where the proxy itself is at fault."""
    return ApiError("the proxy failed; its log says why", status=500, kind="api_error", code="internal_error")


def unavailable(message: str) -> ApiError:
    """Return the answer while the engine cannot be reached; clients may try again."""
    return ApiError(message, status=503, kind="service_unavailable_error", code="engine_unavailable")


def forbidden(message: str) -> ApiError:
    """Return the answer to a key that does not reach that far."""
    return ApiError(message, status=403, kind="permission_error", code="wrong_session")


def unauthorized(message: str) -> ApiError:
    """Return the answer to a missing or wrong key."""
    return ApiError(message, status=401, kind="authentication_error", code="invalid_api_key")
