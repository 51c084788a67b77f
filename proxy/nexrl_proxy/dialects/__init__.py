"""Wire formats agents speak. A dialect decodes a request into an `Ask` and shapes answers; it does nothing else.

A new one is a class like `chat.ChatDialect` and a line in `app`.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from msgspec import Struct

from nexrl.records import Float32s, Int32s
from nexrl_proxy.errors import ApiError
from nexrl_proxy.messages import Message


class Ask(Struct, frozen=True, kw_only=True):
    """What a request asks for, whatever dialect it came in."""

    model: str
    dialect: str
    messages: list[Message]
    """As they arrived."""
    tools: list[Any] | None
    """As they arrived; None also where the request forbids their use."""
    template: dict[str, Any]
    """Arguments for the chat template."""
    sampling: dict[str, Any]
    """In the engine's names; without `max_new_tokens`."""
    max_tokens: int | None
    """None: as many as the context holds."""
    temperature: float
    stops: Sequence[str] = ()
    n: int = 1
    seed: int | None = None
    stream: bool = False
    include_usage: bool = False
    logprobs: bool = False


class TokenText(Struct, frozen=True):
    """A sampled token as a reply with logprobs shows it."""

    text: str
    raw: bytes
    logprob: float


class Choice(Struct, frozen=True, kw_only=True):
    """One finished completion."""

    message: Message
    finish_reason: str
    """As the engine said it."""
    completion: Int32s
    logprobs: Float32s
    called_tools: bool


class Usage(Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


class Answer(Protocol):
    """Shapes everything that answers one request. Streams are server-sent events, returned as they go on the wire."""

    def whole(
        self, choices: Sequence[Choice], usage: Usage, tokens: Sequence[Sequence[TokenText]] | None
    ) -> dict[str, Any]:
        """Return the plain reply; `tokens` are shown where logprobs were asked for."""
        ...

    def first(self, index: int) -> bytes:
        """Open a choice."""
        ...

    def delta(self, index: int, delta: dict[str, Any], tokens: Sequence[TokenText] | None) -> bytes:
        """Add to a choice; the delta is a part of an assistant message."""
        ...

    def last(self, index: int, choice: Choice) -> bytes:
        """Close a choice."""
        ...

    def end(self, usage: Usage | None) -> bytes:
        """Close the stream; with the usage where that was asked for."""
        ...

    def failed(self, error: ApiError) -> bytes:
        """Close the stream with an error."""
        ...


class Dialect(Protocol):
    """One wire format."""

    def decode(self, body: bytes) -> Ask:
        """Return what a request asks for; raises ApiError."""
        ...

    def answer(self, *, response: str, model: str, created: int) -> Answer:
        """Return what shapes the answer to one request."""
        ...

    def error(self, error: ApiError) -> dict[str, Any]:
        """Return an error's body."""
        ...
