"""Text to meaning: reasoning and tool calls. Parsing decides what the agent reads, never what is trained.

A parser is made anew for every completion, is fed text as it arrives and may hold some of it back. Fed in any pieces,
it yields the same content, reasoning and tool calls. New formats are one file here and one line in `TOOL_PARSERS`.
"""

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct


class Content(Struct, frozen=True):
    text: str


class Reasoning(Struct, frozen=True):
    text: str


class ToolCall(Struct, frozen=True):
    name: str
    arguments: str
    """JSON, as the model spelled it."""


class Malformed(Struct, frozen=True):
    """A tool call that could not be parsed; the agent reads it as text."""

    text: str


Event = Content | Reasoning | ToolCall | Malformed


class Parser(Protocol):
    """Splits one completion's text into events."""

    def push(self, text: str) -> list[Event]:
        """Return what became certain."""
        ...

    def finish(self) -> list[Event]:
        """Return what was held back."""
        ...


ParserFactory = Callable[[], Parser]
