"""OpenAI Responses, the answer: the plain reply, or the events of a stream in the official order.

Reasoning and text leave as they are sampled. Tool calls leave when the completion has ended: text may still follow a
call (a malformed second one, say), and an output has its text before its calls, as the plain reply does. Reasoning
that follows text is in the final response alone.
"""

from collections.abc import Sequence
from itertools import groupby
from typing import Any

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from nexrl_proxy.dialects import Choice, Opening, TokenText, Usage
from nexrl_proxy.dialects.logprobs import listed
from nexrl_proxy.dialects.responses_reply import (
    ResponsesAsk,
    Shapes,
    reasoning_part,
    status_of,
    text_part,
)
from nexrl_proxy.errors import ApiError
from nexrl_proxy.parsers import Content, Reasoning
from nexrl_proxy.reading import Called, Delta

SEVERAL = 2


class Piece(Struct):
    """The event there are most of: some more text, or reasoning."""

    type: str
    sequence_number: int
    item_id: str
    output_index: int
    content_index: int
    delta: str
    logprobs: Raw | UnsetType


class ResponsesAnswer:
    """Shapes everything that answers one request."""

    def __init__(self, ask: ResponsesAsk, opening: Opening) -> None:
        self._shapes = Shapes(ask, opening)
        # The first two open the stream, which may happen when the first delta is already shaped.
        self._events = 2
        self._items = 0
        """Output items closed so far."""
        self._open: dict[str, Any] | None = None
        """The item being streamed: reasoning or a message."""
        self._reasoning: list[str] = []
        self._tokens: list[TokenText] = []
        """Sampled since the last piece of text."""
        self._choice: Choice | None = None

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """Return the plain reply."""
        return self._shapes.finished(choices[0], usage)

    def first(self) -> bytes:
        """Open the stream."""
        started = self._shapes.started()
        created = event("response.created", 0, response=started)
        return created + event("response.in_progress", 1, response=started)

    def delta(self, index: int, deltas: Sequence[Delta], tokens: Sequence[TokenText] | None) -> bytes:  # noqa: ARG002
        """Return the events for what arrived at once; there is but one choice."""
        if tokens:
            self._tokens += tokens
        events = b""
        for piece in deltas if len(deltas) < SEVERAL else merged(deltas):
            match piece:
                case Content(text):
                    events += self._text(text)
                case Reasoning(text):
                    events += self._thought(text)
                case Called():
                    pass  # leaves in `last`
        return events

    def last(self, index: int, choice: Choice) -> bytes:  # noqa: ARG002
        """Close what is open, and send the calls."""
        self._choice = choice
        output = self._shapes.output(choice)
        events = b""
        for item in output:
            match item["type"]:
                case "reasoning":
                    events += self._end_thought(item["status"])
                case "message":
                    events += self._end_text(item)
                case _:
                    break
        calls: list[dict[str, Any]] = choice.message.get("tool_calls") or []
        return events + b"".join(self._call(place, call) for place, call in enumerate(calls))

    def end(self, usage: Usage) -> bytes:
        """Close the stream with the whole response."""
        if self._choice is None:
            raise RuntimeError("the stream of a response ends before its completion did")
        return self._event(f"response.{status_of(self._choice)}", response=self._shapes.finished(self._choice, usage))

    def failed(self, error: ApiError) -> bytes:
        """Close the stream with an error; some clients raise it from the one event, some from the other."""
        told = {"code": error.code, "message": str(error), "param": error.param}
        broken = self._event("error", **told, error={"type": error.kind, **told})
        return broken + self._event("response.failed", response=self._shapes.failed(error))

    def _thought(self, text: str) -> bytes:
        events = b""
        if self._open is None:
            events = self._open_item(self._shapes.reasoning(None, "in_progress"), reasoning_part(""))
        elif self._open["type"] != "reasoning":
            return b""
        self._reasoning.append(text)
        return events + self._piece("response.reasoning_text.delta", text, UNSET)

    def _text(self, text: str) -> bytes:
        events = b""
        if self._open is None or self._open["type"] != "message":
            events = self._end_thought("completed")
            events += self._open_item(self._shapes.message(None, None, "in_progress"), text_part("", None))
        logprobs, self._tokens = listed(self._tokens), []
        return events + self._piece("response.output_text.delta", text, logprobs)

    def _end_thought(self, status: str) -> bytes:
        """Close the reasoning, where it is what is open."""
        if self._open is None or self._open["type"] != "reasoning":
            return b""
        text = "".join(self._reasoning)
        said = self._part_event("response.reasoning_text.done", text=text)
        return said + self._close_item(self._shapes.reasoning(text, status))

    def _end_text(self, item: dict[str, Any]) -> bytes:
        """Close the message; one that nothing was written into is opened first."""
        events = b""
        if self._open is None:
            events = self._open_item({**item, "content": [], "status": "in_progress"}, text_part("", None))
        [part] = item["content"]
        said = self._part_event("response.output_text.done", text=part["text"], logprobs=part["logprobs"])
        return events + said + self._close_item(item)

    def _open_item(self, item: dict[str, Any], part: dict[str, Any]) -> bytes:
        added = self._event("response.output_item.added", output_index=self._items, item=item)
        self._open = item
        return added + self._part_event("response.content_part.added", part=part)

    def _close_item(self, item: dict[str, Any]) -> bytes:
        done = self._part_event("response.content_part.done", part=item["content"][0])
        done += self._event("response.output_item.done", output_index=self._items, item=item)
        self._open = None
        self._items += 1
        return done

    def _call(self, place: int, call: dict[str, Any]) -> bytes:
        """Send a whole tool call."""
        started, item = self._shapes.call(place, call, started=True), self._shapes.call(place, call)
        field, kind = (
            ("input", "custom_tool_call_input") if "input" in item else ("arguments", "function_call_arguments")
        )
        where: dict[str, Any] = {"item_id": item["id"], "output_index": self._items}
        named = {} if field == "input" else {"name": item["name"]}
        self._items += 1
        return b"".join(
            [
                self._event("response.output_item.added", output_index=where["output_index"], item=started),
                self._event(f"response.{kind}.delta", **where, delta=item[field]),
                self._event(f"response.{kind}.done", **where, **named, **{field: item[field]}),
                self._event("response.output_item.done", output_index=where["output_index"], item=item),
            ]
        )

    def _piece(self, kind: str, text: str, logprobs: Raw | UnsetType) -> bytes:
        assert self._open is not None
        number, self._events = self._events, self._events + 1
        return written(kind, Piece(kind, number, self._open["id"], self._items, 0, text, logprobs))

    def _part_event(self, kind: str, **fields: Any) -> bytes:
        """Return an event about the open item's only part."""
        assert self._open is not None
        return self._event(kind, item_id=self._open["id"], output_index=self._items, content_index=0, **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        number, self._events = self._events, self._events + 1
        return event(kind, number, **fields)


def merged(deltas: Sequence[Delta]) -> list[Delta]:
    """Return deltas with adjacent texts joined."""
    joined: list[Delta] = []
    for kind, group in groupby(deltas, type):
        pieces = list(group)
        texts = [piece.text for piece in pieces if not isinstance(piece, Called)]
        joined += pieces if kind is Called else [(Content if kind is Content else Reasoning)("".join(texts))]
    return joined


def event(kind: str, number: int, **fields: Any) -> bytes:
    """Return a server-sent event."""
    return written(kind, {"type": kind, "sequence_number": number, **fields})


def written(kind: str, data: Any) -> bytes:
    return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(data) + b"\n\n"
