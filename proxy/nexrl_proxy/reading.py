"""One completion as its reader sees it: ids in, deltas out, and at the end the assistant message.

Joins the text decoder, the stop strings and the parser. Streamed and plain replies both come from here, so they agree.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from msgspec import Struct

from nexrl_proxy.ids import new_id
from nexrl_proxy.parsers import Content, Event, Malformed, Parser, Reasoning, ToolCall
from nexrl_proxy.text import NothingDecoder, StopCut, Vocabulary


class Called(Struct, frozen=True):
    """A whole tool call."""

    index: int
    """Its place among the calls of the message."""
    id: str
    name: str
    arguments: str
    """JSON, as the model spelled it."""


Delta = Content | Reasoning | Called
"""What a piece of a completion adds to the assistant message."""


class Reader:
    """Reads one completion; feed it every id once, then finish."""

    def __init__(
        self, vocabulary: Vocabulary | None, parser: Parser, stops: Sequence[str] = (), *, call_prefix: str = "call_"
    ) -> None:
        """`vocabulary` is None for an engine that returns text: then there is only something to `hear`."""
        self._decoder = vocabulary.decoder() if vocabulary else NothingDecoder()
        self._cut = StopCut(stops)
        self._parser = parser
        self._call_prefix = call_prefix
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self.malformed_tool_call = False

    def begin(self, forced: str) -> list[Delta]:
        """Take the text a reply was made to begin with."""
        return self._deltas(self._parser.push(forced))

    def push(self, ids: Sequence[int]) -> list[Delta]:
        """Return the deltas that became certain."""
        return self._deltas(self._parser.push(self._cut.push(self._decoder.push(ids))))

    def hear(self, deltas: Sequence[Delta]) -> list[Delta]:
        """Take what an engine that returns text said."""
        for delta in deltas:
            if isinstance(delta, Called):
                self._calls.append(_call(delta))
            else:
                (self._content if isinstance(delta, Content) else self._reasoning).append(delta.text)
        return list(deltas)

    def finish(self) -> list[Delta]:
        """Return what was held back."""
        rest = self._cut.push(self._decoder.finish()) + self._cut.finish()
        return self._deltas([*self._parser.push(rest), *self._parser.finish()])

    @property
    def message(self) -> dict[str, Any]:
        """The assistant message read so far."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._content) or None}
        if self._reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            message["tool_calls"] = self._calls
        return message

    def _deltas(self, events: Iterable[Event]) -> list[Delta]:
        return [self._delta(event) for event in events]

    def _delta(self, event: Event) -> Delta:
        if isinstance(event, Content):
            self._content.append(event.text)
            return event
        match event:
            case Reasoning(text):
                self._reasoning.append(text)
                return event
            case ToolCall(name, arguments):
                called = Called(len(self._calls), f"{self._call_prefix}{new_id()}", name, arguments)
                self._calls.append(_call(called))
                return called
            case Malformed(text):
                self.malformed_tool_call = True
                self._content.append(text)
                return Content(text)


def _call(called: Called) -> dict[str, Any]:
    function = {"name": called.name, "arguments": called.arguments}
    return {"id": called.id, "type": "function", "function": function}


def reasoning_tokens(reader: Reader, ids: Iterable[int]) -> int:
    """Return how many tokens come before the answer; `reader` is a fresh one."""
    count = 0
    for token in ids:
        if any(not isinstance(delta, Reasoning) for delta in reader.push((token,))):
            return count
        count += 1
    return count
