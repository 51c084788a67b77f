"""What a session already holds, and which call of it a request continues.

Pure look-up by a rolling digest over the messages, so that a turn costs what is new in it. The state is a cache: what
was forgotten is read back from ingest (`restoring`). What the continuation's tokens are is decided by `prompting`.
"""

from collections import OrderedDict
from collections.abc import Sequence
from functools import reduce
from hashlib import blake2b
from itertools import accumulate
from typing import Any, NamedTuple, Self, TypeVar

import msgspec
from msgspec import Struct

from nexrl.records import Int32s, pack
from nexrl_proxy.dialects import Stored
from nexrl_proxy.messages import Message, canonical, normalised
from nexrl_proxy.prefixes import Prefixes

MOST_CALLS = 8192
"""Per session; the calls nobody continued for longest are forgotten first."""
MOST_BYTES = 2**30
MOST_SESSIONS = 2**17
"""Also those that hold next to nothing, as with engines that return text."""
"""For all sessions; the sessions nobody used for longest are forgotten first."""
MOST_RESPONSES = 1024
"""Per session: replies that a request may name by their id."""
MOST_BODIES = 16
"""Per session: requests whose messages are recognised by their bytes."""
BYTES_PER_CALL = 1200
"""What a call keeps besides its token ids, about."""
BYTES_PER_TOKEN = 14
"""Four in its call, and those in what the session's next turn begins with: the id again, and written."""
TEXT, IDS = b"text", b"ids"
"""Kinds of raw prompts."""
ValueT = TypeVar("ValueT")


class Held(Struct, frozen=True, kw_only=True, eq=False):
    """A call that later requests may continue."""

    id: str
    parent: "Held | None"
    prompt_delta: Int32s
    completion: Int32s
    tool_calls: list[Any] | None
    """Of its reply, as they were returned."""
    ended: bool
    """The model ended the turn itself, so its end-of-turn token is the completion's last."""
    stopped: str = ""
    """The stop string that ended the turn: sampled, and not part of the reply."""

    @property
    def size(self) -> int:
        """Bytes it keeps in memory, about."""
        return BYTES_PER_CALL + BYTES_PER_TOKEN * (len(self.prompt_delta) + len(self.completion))


class Beginning(NamedTuple):
    """Tokens that a prompt begins with."""

    ids: Int32s
    written: bytes
    """The same as JSON, without the brackets: engines are told so, and a long conversation's take a while to write."""

    def followed_by(self, ids: Int32s) -> "Beginning":
        """Return these tokens with more behind them."""
        if not ids:
            return self
        longer = Int32s()
        longer.extend(self.ids)
        longer.extend(ids)
        more = msgspec.json.encode(ids.tolist())[1:-1]
        return Beginning(longer, self.written + b"," + more if self.written else more)


NOTHING = Beginning(Int32s(), b"")


class History(Struct, frozen=True, kw_only=True):
    """Messages as digests: `digests[k]` stands for the first `start + k` messages under tools and arguments."""

    setting: bytes
    """Digest of tools and template arguments."""
    messages: list[Message]
    """Normalised; those from `start` on."""
    digests: list[bytes]
    start: int = 0

    def extended(self, messages: Sequence[Message]) -> Self:
        """Return the history with more normalised messages."""
        digests = list(accumulate(messages, step, initial=self.digests[-1]))
        return msgspec.structs.replace(
            self, messages=[*self.messages, *messages], digests=[*self.digests[:-1], *digests]
        )


class Found(Struct, frozen=True):
    """The call a request continues."""

    call: Held
    covered: int
    """Number of the request's messages that are the call's, its reply included."""


class Place(Struct, frozen=True):
    """How far into a conversation something is known: the digest of its first `length` messages."""

    digest: bytes
    length: int


class Session:
    """The calls of one session, found by what was said up to and including their reply."""

    def __init__(self) -> None:
        self.bodies: Prefixes[Place] = Prefixes(MOST_BODIES)
        """Messages as bytes of JSON, by setting."""
        self.raw: Prefixes[Held] = Prefixes(MOST_CALLS)
        """Raw prompts with their completions, as text or as ids."""
        self.responses: OrderedDict[str, Stored | None] = OrderedDict()
        """Replies by their id; None where no request may name them."""
        self.calls: OrderedDict[bytes, Held] = OrderedDict()
        """By what was said up to and including the reply."""
        self.prompts: OrderedDict[bytes, None] = OrderedDict()
        """What was asked, without the reply."""
        self.replies: OrderedDict[bytes, None] = OrderedDict()
        """What was replied, wherever."""
        self._last: tuple[Held | None, Beginning] = None, NOTHING
        """The call that was asked for last, and its tokens."""
        self.size = 0
        self.whole = False
        """What ingest has of it was looked for; there may be more until then."""

    def beginning(self, call: Held) -> "Beginning":
        """Return prompt and completion of a held call: the first tokens of every continuation.

        Put together from the parents, up to the call that was asked for last: turns go on from each other.
        """
        last, known = self._last
        chain: list[Held] = []
        link: Held | None = call
        while link is not None and link is not last:
            chain.append(link)
            link = link.parent
        rest = Int32s()
        for one in reversed(chain):
            rest.extend(one.prompt_delta)
            rest.extend(one.completion)
        begun = (known if link is not None else NOTHING).followed_by(rest)
        self._last = call, begun
        return begun

    def adopt(self, later: "Session") -> None:
        """Take over what another one holds, as said after everything here."""
        self.bodies.adopt(later.bodies)
        self.raw.adopt(later.raw)
        adopt(self.responses, later.responses, most=MOST_RESPONSES)
        adopt(self.calls, later.calls, most=MOST_CALLS)
        adopt(self.prompts, later.prompts, most=MOST_CALLS)
        adopt(self.replies, later.replies, most=MOST_CALLS)
        self.size += later.size

    def find(self, history: History) -> Found | None:
        """Return the call this request continues: the one that covers most, then the latest."""
        for place in range(len(history.digests) - 1, 0, -1):
            if call := self.calls.get(history.digests[place]):
                return Found(call, history.start + place)
        return None

    def drifted(self, history: History) -> str | None:
        """Return why a history of which no reply is found should have been: somebody changed what was said.

        None for a conversation of its own, be it with replies the session never gave (examples in a prompt).
        """
        asked = False
        for digest, message in zip(history.digests, history.messages, strict=False):
            if message["role"] == "assistant":
                if asked and digest in self.prompts:
                    return "edited"
                if blake2b(canonical(message), digest_size=16).digest() in self.replies:
                    return "compacted" if not asked else "edited"
            asked = asked or message["role"] != "system"
        return None

    def hold(self, asked: bytes, call: Held, reply: Message) -> None:
        """Let later requests continue `call`, which answered the messages with digest `asked` with `reply`."""
        remember(self.prompts, asked, None, most=MOST_CALLS)
        shapes = {id(shape): shape for shape in echoes_of(reply, call.stopped)}.values()
        for message in dict.fromkeys(map(canonical, shapes)):
            remember(self.calls, _digest(asked + message), call, most=MOST_CALLS)
            remember(self.replies, _digest(message), None, most=MOST_CALLS)
        self.size += call.size

    def store(self, response: str, stored: Stored | None) -> None:
        """Let later requests name a reply by its id; None: let none do so."""
        remember(self.responses, response, stored, most=MOST_RESPONSES)
        self.size += stored.size if stored else 0

    def hold_raw(self, call: Held, text: str | None) -> None:
        """Let later raw prompts continue `call`; `text` is its prompt with its completion, where that came as text."""
        if text is not None:
            self.raw.remember(TEXT, text.encode(errors="surrogatepass"), call)
        self.raw.remember(IDS, pack(self.beginning(call).ids), call)
        self.size += call.size


class Sessions:
    """The sessions in memory, as many as fit in `most_bytes`."""

    def __init__(self, most_bytes: int = MOST_BYTES) -> None:
        self._most_bytes = most_bytes
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def known(self, attempt: str) -> Session | None:
        """Return a session that is in memory."""
        session = self._sessions.get(attempt)
        if session:
            self._sessions.move_to_end(attempt)
        return session

    def put(self, attempt: str, session: Session) -> None:
        """Keep a session, in place of what was known of it."""
        self.forget(attempt)
        self._sessions[attempt] = session
        self._grow(session.size)

    def get(self, attempt: str) -> Session:
        """Return a session; an empty one where it is not in memory."""
        session = self.known(attempt)
        if session is None:
            session = Session()
            self.put(attempt, session)
        return session

    def grown(self, attempt: str, size: int) -> None:
        """Take note that a session grew by so many bytes; others are forgotten where that is too much."""
        if attempt in self._sessions:
            self._grow(size)

    def forget(self, attempt: str) -> None:
        if session := self._sessions.pop(attempt, None):
            self._size -= session.size

    def _grow(self, size: int) -> None:
        self._size += size
        while (self._size > self._most_bytes or len(self) > MOST_SESSIONS) and len(self) > 1:
            self.forget(next(iter(self._sessions)))


def setting_of(tools: list[Any] | None, kwargs: dict[str, Any]) -> bytes:
    """Return the digest of what a conversation is held under."""
    return _digest(msgspec.json.encode([tools, kwargs], order="sorted"))


def history_of(messages: Sequence[Message], setting: bytes) -> History:
    """Return the digests of normalised messages."""
    return History(setting=setting, messages=[], digests=[setting]).extended(messages)


def after(digest: bytes, messages: Sequence[Message]) -> bytes:
    """Return the digest of a conversation with more normalised messages."""
    return reduce(step, messages, digest)


def step(digest: bytes, message: Message) -> bytes:
    """Return the digest of a conversation with one more normalised message."""
    return _digest(digest + canonical(message))


def remember(store: "OrderedDict[Any, ValueT]", key: Any, value: ValueT, *, most: int) -> None:
    """Put a value last in the order of forgetting, and forget what exceeds `most`."""
    store[key] = value
    store.move_to_end(key)
    while len(store) > most:
        store.popitem(last=False)


def adopt(store: "OrderedDict[Any, ValueT]", later: "OrderedDict[Any, ValueT]", *, most: int) -> None:
    """Put all values of another store last in the order of forgetting."""
    for key, value in later.items():
        remember(store, key, value, most=most)


def _digest(data: bytes) -> bytes:
    return blake2b(data, digest_size=16).digest()


def echoes_of(reply: Message, stopped: str = "") -> tuple[Message, Message, Message]:
    """Return the shapes in which clients send a reply back: as it was, without the text beside tool calls, to its end.

    To its end means with the stop string that the model had said; who looks for calls in the text puts it back.
    """
    [echo] = normalised([reply])
    bare = echo | {"content": ""} if echo.get("tool_calls") else echo
    return echo, bare, echo | {"content": echo["content"] + stopped} if stopped else echo
