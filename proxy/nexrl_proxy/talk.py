"""A conversation as a request brings it, and as it is told from earlier ones.

Which call it continues is found by `conversation`; what its tokens are by `prompting`.
"""

from typing import Any

import msgspec
from msgspec import Struct

from nexrl_proxy.conversation import History, Place, Session, history_of
from nexrl_proxy.dialects import Ask
from nexrl_proxy.errors import ApiError
from nexrl_proxy.messages import Message, normalised
from nexrl_proxy.prefixes import Known

_messages = msgspec.json.Decoder(list[dict[str, Any]])


class Talk(Struct, frozen=True, kw_only=True, eq=False):
    """A conversation as it was recognised."""

    history: History
    arrived: list[Message]
    """Its messages as they arrived, from `history.start` on."""
    body: bytes = b""
    """All of them as they stand in the request's body, where they do."""
    known: Known[Place] | None = None
    """The beginning of the body that was recognised."""
    said: list[Message] = []
    """What a later request goes on from by the reply's id; kept where the request wants that."""


def talk_of(body: bytes, setting: bytes) -> Talk:
    """Return the conversation that stands in a request's body."""
    arrived = decoded_messages(body)
    return Talk(history=history_of(normalised(arrived), setting), arrived=arrived, body=body)


def place_of(talk: Talk) -> Place:
    """Return how far a later request that begins with the same messages is known."""
    return Place(talk.history.digests[-1], talk.history.start + len(talk.history.messages))


def whole_messages(ask: Ask, session: Session) -> list[Message]:
    """Return a request's messages behind those of the reply it goes on from, under its own instructions.

    Raises ApiError where the reply, or an item that is referred to, is not known in this session.
    """
    messages = decoded_messages(ask.wire.messages) if ask.wire else ask.whole(session.responses)
    if ask.previous is None:
        return messages
    previous = session.responses.get(ask.previous)
    if previous is None:
        message = f"previous response {ask.previous!r} is not known in this session: send the whole input"
        raise ApiError(message, param="previous_response_id", code="previous_response_not_found")
    return [*messages[: ask.instructed], *previous.said, *messages[ask.instructed :]]


def decoded_messages(body: bytes) -> list[Message]:
    """Return messages from JSON; raises ApiError."""
    try:
        messages = _messages.decode(body)
    except (msgspec.ValidationError, UnicodeDecodeError) as error:
        raise ApiError(f"messages: {error}", param="messages") from error
    if not messages:
        raise ApiError("number of messages is 0: send at least one", param="messages")
    return messages
