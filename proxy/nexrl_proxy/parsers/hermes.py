"""Tool calls as Hermes and Qwen write them: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`.

Content is what stands before the first call, without the whitespace around it. Text between and after calls is
format, not content; a call that does not parse is given to the agent as text, wherever it stands.
"""

import msgspec
from msgspec import Raw, Struct

from nexrl_proxy.parsers import Content, Event, Malformed, ToolCall
from nexrl_proxy.text import overlap

OPENING = "<tool_call>"
CLOSING = "</tool_call>"


class _Written(Struct):
    name: str
    arguments: Raw


class HermesParser:
    """Emits a call when its closing tag has arrived."""

    def __init__(self) -> None:
        self._held = ""
        self._inside = False
        self._started = False
        """Content that is not whitespace was emitted."""
        self._called = False
        self._gap = ""
        """Whitespace before the opening tag: format where a call follows, text where none does."""

    def push(self, text: str) -> list[Event]:
        self._held += text
        events: list[Event] = []
        while (found := self._held.find(CLOSING if self._inside else OPENING)) >= 0:
            events += self._leave(found) if self._inside else self._enter(found)
        if not self._inside:
            events += self._content(self._uncertain())
        return events

    def finish(self) -> list[Event]:
        held, self._held = self._held, ""
        if self._inside:
            return [Malformed(self._gap + held)]
        if self._called or not held:
            return []
        return [Content(held if self._started else held.lstrip())] if held.strip() or self._started else []

    def _enter(self, found: int) -> list[Event]:
        before, self._held = self._held[:found], self._held[found:]
        self._inside = True
        text = before.rstrip()
        self._gap = before[len(text) :] if self._started or text else ""
        return self._shown(text)

    def _leave(self, found: int) -> list[Event]:
        end = found + len(CLOSING)
        written, self._held = self._held[:end], self._held[end:]
        self._inside = False
        call = parse_call(written[len(OPENING) : -len(CLOSING)])
        if call is None:
            self._started = True
            return [Malformed(self._gap + written)]
        self._called = True
        return [call]

    def _uncertain(self) -> int:
        """Return how much of the end may be markup, or whitespace before markup."""
        tail = overlap(self._held, OPENING)
        certain = self._held[: len(self._held) - tail]
        return tail + len(certain) - len(certain.rstrip())

    def _content(self, keep: int) -> list[Event]:
        split = len(self._held) - keep
        text, self._held = self._held[:split], self._held[split:]
        return self._shown(text)

    def _shown(self, text: str) -> list[Event]:
        if not self._started:
            text = text.lstrip()
        if not text or self._called:
            return []
        self._started = True
        return [Content(text)]


def parse_call(body: str) -> ToolCall | None:
    """Return the call between the tags, or None where it is malformed: no object, no name, arguments no object."""
    try:
        written = msgspec.json.decode(body, type=_Written)
        arguments = bytes(written.arguments).decode()
        if arguments.startswith('"'):  # some models write the object as a string, as the API itself does
            arguments = msgspec.json.decode(arguments, type=str)
        msgspec.json.decode(arguments, type=dict)
    except (msgspec.DecodeError, UnicodeError):
        return None
    return ToolCall(written.name, arguments) if written.name else None
