"""Wire formats agents speak. A dialect decodes a request into an `Ask` and shapes answers; it does nothing else.

Inside, every conversation is chat messages, whatever it came in as; how an answer is spelled again is the `Answer`'s.
A new dialect is a class like `chat.ChatDialect` and a line in `app`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from msgspec import Struct

from nexrl.records import Int32s
from nexrl_proxy.errors import ApiError
from nexrl_proxy.messages import Message
from nexrl_proxy.reading import Delta
from nexrl_proxy.text import Shown

BYTES_PER_STORED = 4000
"""What a stored reply keeps besides its call and its instructions, about; tools are shared."""


class Wire(Struct, frozen=True):
    """Parts of a request's body as they stand there. Agents repeat themselves, and bytes are quick to recognise."""

    messages: bytes
    """A JSON array of chat messages."""
    tools: bytes
    """A JSON array of chat tools, or nothing."""


class Ask(Struct, frozen=True, kw_only=True):
    """What a request asks for, whatever dialect it came in."""

    model: str
    dialect: str
    messages: list[Message] = []
    """As chat messages, where they do not stand in `wire`."""
    wire: Wire | None = None
    """Where the dialect's messages are chat messages as they stand."""
    prompts: Sequence[str | Int32s] = ()
    """Raw prompts, of text or of token ids, where the dialect has no messages; each is sampled `n` times."""
    tools: list[Any] | None = None
    """As chat tools."""
    may_call: bool = True
    """False: what looks like a tool call is text. The model still reads the tools, so that its prompt goes on."""
    must_call: str | None = None
    """The tool that the reply has to call; "" for any of them."""
    template: dict[str, Any] = {}
    """Arguments for the chat template."""
    sampling: dict[str, Any] = {}
    """In SGLang's names, and only what the request sets; without `max_new_tokens` and `sampling_seed`."""
    max_tokens: int | None = None
    """None: as many as the context holds."""
    stops: Sequence[str] = ()
    n: int = 1
    seed: int | None = None
    stream: bool = False
    include_usage: bool = False
    """A stream ends with the usage, in dialects where that is a choice."""
    logprobs: bool = False
    top_logprobs: int = 0
    """Alternatives shown beside each token."""
    previous: str | None = None
    """The id of the reply this request goes on from; its messages are only what is new."""
    request: bytes | None = None
    """The body, where it is a chat completion request as it stands."""
    instructed: bool = False
    """The first message is instructions, which a request that goes on from the reply does not inherit."""
    store: bool = False
    """Later requests may name the reply by its id: go on from it, read it."""

    @property
    def named(self) -> frozenset[str]:
        """Ids of the replies that the request names."""
        return frozenset() if self.previous is None else frozenset((self.previous,))

    def whole(self, stored: "Mapping[str, Stored | None]") -> list[Message]:
        """Return the messages, with what they refer to in `stored` replies; raises ApiError where that is not there."""
        del stored
        return self.messages


class TokenText(Struct, frozen=True, gc=False):
    """A sampled token as a reply with logprobs shows it."""

    shown: Shown
    logprob: float
    top: "Sequence[TokenText]" = ()
    """The likeliest tokens in its place, likeliest first, where the request asks for them."""


class Choice(Struct, frozen=True, kw_only=True):
    """One finished completion."""

    message: Message
    """The assistant message: `content`, `reasoning_content`, `tool_calls`."""
    finish_reason: str
    """As the engine said it: `stop`, `length` or `abort`."""
    stop: str | None = None
    """The stop string that ended it."""
    tokens: list[TokenText] | None = None
    """Where logprobs were asked for."""

    @property
    def called_tools(self) -> bool:
        return "tool_calls" in self.message


class Usage(Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int
    reasoning_tokens: int = 0


class Opening(Struct, frozen=True, kw_only=True):
    """What is known of a reply before anything is sampled."""

    response: str
    """Its id."""
    model: str
    """The name it shows."""
    created: int
    """Unix time in seconds."""
    prompt_tokens: int


class Stored(Struct, frozen=True, kw_only=True):
    """A reply that later requests name by its id, and what it answered."""

    ask: Ask
    created: int
    """Unix time in seconds."""
    choice: Choice
    """Without logprobs."""
    usage: Usage
    said: list[Message]
    """The conversation up to and including the reply, without its instructions."""

    @property
    def size(self) -> int:
        """Bytes it keeps in memory besides its call, about."""
        return BYTES_PER_STORED + (len(self.ask.messages[0]["content"]) if self.ask.instructed else 0)


class Answer(Protocol):
    """Shapes everything that answers one request; may keep state from event to event.

    A stream is `first`, then `delta` and `last` for each choice (choices interleave), then `end`; or `failed` at any
    place. Each returns server-sent events as they go on the wire, or nothing.
    """

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """Return the plain reply."""
        ...

    def first(self) -> bytes:
        """Open the stream, and its choices."""
        ...

    def delta(self, index: int, deltas: Sequence[Delta], tokens: Sequence[TokenText] | None) -> bytes:
        """Add to a choice what one event of the engine brought; `tokens` are those, where logprobs were asked for."""
        ...

    def last(self, index: int, choice: Choice) -> bytes:
        """Close a choice."""
        ...

    def end(self, usage: Usage) -> bytes:
        """Close the stream."""
        ...

    def failed(self, error: ApiError) -> bytes:
        """Close the stream with an error."""
        ...


class Dialect(Protocol):
    """One wire format."""

    response_prefix: str
    """Reply ids begin with it."""
    call_prefix: str
    """Ids of tool calls begin with it."""

    def decode(self, body: bytes) -> Ask:
        """Return what a request asks for; raises ApiError."""
        ...

    def answer(self, ask: Ask, opening: Opening) -> Answer:
        """Return what shapes the answer to one request."""
        ...

    def error(self, error: ApiError) -> dict[str, Any]:
        """Return an error's body."""
        ...
