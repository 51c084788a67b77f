"""One completion as its reader sees it: ids in, events out, and at the end the assistant message.

Joins the text decoder, the stop strings and the parser. Streamed and plain replies both come from here, so they agree.
"""

import secrets
from collections.abc import Iterable, Sequence
from typing import Any

from nexrl_proxy.parsers import Content, Event, Malformed, Parser, Reasoning, ToolCall
from nexrl_proxy.text import StopCut, Vocabulary


class Reader:
    """Reads one completion; feed it every id once, then finish."""

    def __init__(self, vocabulary: Vocabulary, parser: Parser, stops: Sequence[str] = ()) -> None:
        self._decoder = vocabulary.decoder()
        self._cut = StopCut(stops)
        self._parser = parser
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self.malformed_tool_call = False

    def push(self, ids: Iterable[int]) -> list[dict[str, Any]]:
        """Return the deltas that became certain, in OpenAI's shape of an assistant message."""
        return self._deltas(self._parser.push(self._cut.push(self._decoder.push(ids))))

    def finish(self) -> list[dict[str, Any]]:
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

    @property
    def called_tools(self) -> bool:
        return bool(self._calls)

    def _deltas(self, events: Iterable[Event]) -> list[dict[str, Any]]:
        return [self._delta(event) for event in events]

    def _delta(self, event: Event) -> dict[str, Any]:
        match event:
            case Reasoning(text):
                self._reasoning.append(text)
                return {"reasoning_content": text}
            case ToolCall(name, arguments):
                call = {
                    "id": f"call_{secrets.token_hex(12)}",
                    "type": "function",
                    "function": {"name": name, "arguments": arguments},
                }
                self._calls.append(call)
                return {"tool_calls": [{"index": len(self._calls) - 1, **call}]}
            case Malformed(text):
                self.malformed_tool_call = True
                self._content.append(text)
                return {"content": text}
            case Content(text):
                self._content.append(text)
                return {"content": text}
