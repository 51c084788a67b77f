"""What a session already holds, and which call of it a request continues.

Pure look-up by a rolling digest over the messages, so that a turn costs linear time. The state is a cache: a dropped
conversation is rendered anew and opens a new chain. What the continuation's tokens are is decided by `prompting`.
"""

from collections import OrderedDict
from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from nexrl.records import Int32s
from nexrl_proxy.messages import Message, canonical, normalised

MOST_SESSIONS = 4096
MOST_CALLS = 8192
"""Per session; the calls nobody continued for longest are forgotten first."""
ValueT = TypeVar("ValueT")


class Held(Struct, frozen=True, kw_only=True, eq=False):
    """A call that later requests may continue."""

    id: str
    parent: "Held | None"
    prompt_delta: Int32s
    completion: Int32s
    reply: Message
    """The assistant message as it was returned."""
    ended: bool
    """The model ended the turn itself, so its end-of-turn token is the completion's last."""

    def ids(self) -> Int32s:
        """Return prompt and completion: the first tokens of every continuation."""
        chain: list[Held] = []
        call: Held | None = self
        while call is not None:
            chain.append(call)
            call = call.parent
        ids = Int32s()
        for link in reversed(chain):
            ids.extend(link.prompt_delta)
            ids.extend(link.completion)
        return ids


class History(Struct, frozen=True, kw_only=True):
    """A request's messages as digests: `digests[k]` stands for the first k messages, tools and template arguments."""

    messages: list[Message]
    """Normalised."""
    digests: list[bytes]

    @property
    def has_reply(self) -> bool:
        """Whether an assistant has spoken before."""
        return any(message["role"] == "assistant" for message in self.messages)


class Session:
    """The calls of one session, found by what was said up to and including their reply."""

    def __init__(self) -> None:
        self._calls: OrderedDict[bytes, Held] = OrderedDict()

    def __len__(self) -> int:
        return len(self._calls)

    def find(self, history: History) -> tuple[Held, int] | None:
        """Return the call this request continues and how many messages that covers: the longest, then the latest."""
        for length in range(len(history.digests) - 1, 0, -1):
            if call := self._calls.get(history.digests[length]):
                return call, length
        return None

    def hold(self, history: History, call: Held) -> None:
        """Let later requests continue `call`, the reply to `history`."""
        for reply in _echoes(call.reply):
            remember(self._calls, step(history.digests[-1], reply), call, most=MOST_CALLS)


class Sessions:
    """The sessions in memory, at most `MOST_SESSIONS`."""

    def __init__(self, most: int = MOST_SESSIONS) -> None:
        self._most = most
        self._sessions: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, attempt: str) -> Session:
        session = self._sessions.get(attempt) or Session()
        remember(self._sessions, attempt, session, most=self._most)
        return session

    def forget(self, attempt: str) -> None:
        self._sessions.pop(attempt, None)


def history_of(messages: Sequence[Message], tools: list[Any] | None, kwargs: dict[str, Any]) -> History:
    """Return the digests of normalised `messages` under these tools and template arguments."""
    digest = blake2b(msgspec.json.encode([tools, kwargs], order="sorted"), digest_size=16).digest()
    return History(messages=list(messages), digests=list(accumulate(messages, step, initial=digest)))


def step(digest: bytes, message: Message) -> bytes:
    """Return the digest of a conversation with one more normalised message."""
    return blake2b(digest + canonical(message), digest_size=16).digest()


def remember(store: "OrderedDict[Any, ValueT]", key: Any, value: ValueT, *, most: int) -> None:
    """Put a value last in the order of forgetting, and forget what exceeds `most`."""
    store[key] = value
    store.move_to_end(key)
    while len(store) > most:
        store.popitem(last=False)


def _echoes(reply: Message) -> list[Message]:
    """Return the shapes in which clients send a reply back: as it was, or without the text beside tool calls."""
    [echo] = normalised([reply])
    if echo.get("tool_calls") and echo["content"]:
        return [echo, echo | {"content": ""}]
    return [echo]
