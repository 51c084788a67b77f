"""Text to meaning: reasoning and tool calls. Parsing decides what the agent reads, never what is trained.

A parser is made anew for every completion, is fed text as it arrives and may hold some of it back. Fed in any pieces,
it yields the same content, reasoning and tool calls, and nothing the model wrote is lost: what is not markup of a call
that parses, or whitespace around one, reaches the agent as content. Its cost is linear in the text, however it is cut.
New formats are one file here and one line in `choose`.
"""

from collections.abc import Callable
from typing import Any, Protocol

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
Tools = list[Any] | None
"""Tool definitions as a request brought them."""


class Parser(Protocol):
    """Splits one completion's text into events."""

    def push(self, text: str) -> list[Event]:
        """Return what became certain."""
        ...

    def finish(self) -> list[Event]:
        """Return what was held back."""
        ...


class ToolFormat(Struct, frozen=True, kw_only=True):
    """One way to write tool calls: how it is recognised, read, and begun for the model."""

    name: str
    """What `--tool-parser` calls it."""
    evidence: tuple[str, ...] = ()
    """A chat template that holds all of these writes calls this way; never, where there is none."""
    parser: Callable[[Tools], Parser]
    """Makes a parser; the tools say how arguments are typed where the format does not."""
    forced: Callable[[str | None], str | None]
    """The text a turn begins with when a call is forced: of this tool, or of any; None where it cannot be."""
    markers: frozenset[str] = frozenset()
    """Tokens that are text to the parser even where the tokenizer calls them special."""
    endings: frozenset[str] = frozenset()
    """Tokens that end a turn in this format: the engine stops at them, and no parser sees them."""
