"""Content with tool calls in it: what all formats share that mark where a call begins.

Whitespace beside a call is format; every other text outside of calls is content, wherever it stands. How a call is
read, and where it ends, is the format's own: a `CallReader`, made for each opening.
"""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Protocol

from msgspec import Struct

from nexrl_proxy.parsers import Content, Event, Malformed, ToolCall
from nexrl_proxy.parsers.scan import SPACE, Until, any_of, partial


class Read(Struct, frozen=True):
    """What a reader made of the text behind an opening."""

    events: list[Event]
    """The calls; or all that was written, opening included, as text."""
    rest: str
    """What is no longer part of it."""


class CallReader(Protocol):
    """Reads what follows an opening."""

    def push(self, text: str) -> Read | None:
        """Return what was read, once its end has come."""
        ...

    def finish(self) -> list[Event]:
        """Return what was held back when the text ended."""
        ...


class Layout(Struct, frozen=True, kw_only=True):
    """Where a format's calls stand in the text."""

    openings: tuple[str, ...]
    reader: Callable[[str], CallReader]
    """Makes the reader for the text after an opening."""
    wrappers: tuple[str, str] | None = None
    """What stands before the first call and after the last."""
    bare: str = ""
    """A character that begins a call without markup, where nothing but calls stands before it; the reader gets it."""
    separator: str = ""
    """A character between calls, beside whitespace."""


class CallParser:
    """Splits content from calls."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._markers = (*layout.openings, *(layout.wrappers or ()))
        self._markup = any_of(self._markers)
        self._edge = _edge_of(self._markers)
        self._reader: CallReader | None = None
        self._tail = ""
        """It may be the beginning of markup."""
        self._gap: list[str] = []
        """Whitespace and wrappers: format where a call follows, text where none does."""
        self._started = False
        self._called = False
        self._fresh = True
        """Nothing but format stands between here and the beginning, or the last call."""

    def push(self, text: str) -> list[Event]:
        quiet = self._started and not (self._reader or self._fresh or self._tail or self._gap)
        if quiet and text and not self._edge.search(text):
            return [Content(text)]
        events: list[Event] = []
        while text:
            text = self._inside(text, events) if self._reader else self._outside(text, events)
        return events

    def finish(self) -> list[Event]:
        events: list[Event] = []
        if self._reader:
            self._take(self._reader.finish(), events)
        self._show(self._tail, events)
        rest = "".join(self._gap)
        if rest and not (self._fresh and not rest.strip(self._layout.separator + SPACE)):
            events.append(Content(rest if self._started else rest.lstrip(SPACE)))
        return events

    def _inside(self, text: str, events: list[Event]) -> str:
        """Read on in a call; return what stands behind it."""
        read = self._reader.push(text) if self._reader else None
        if read is None:
            return ""
        self._reader = None
        self._take(read.events, events)
        return read.rest

    def _outside(self, text: str, events: list[Event]) -> str:
        """Show what is content; return what stands behind the markup that was met."""
        text, self._tail = self._tail + text, ""
        if self._fresh and self._layout.bare:
            text = self._skip(text)
            if text.startswith(self._layout.bare):
                self._reader = self._layout.reader("")
                return text
        found = self._markup.search(text)
        if found is None:
            split = len(text) - partial(text, self._markers)
            self._show(text[:split], events)
            self._tail = text[split:]
            return ""
        self._show(text[: found.start()], events)
        if found[0] in self._layout.openings:
            self._reader = self._layout.reader(found[0])
        elif not (self._called and self._fresh and self._layout.wrappers and found[0] == self._layout.wrappers[1]):
            self._gap.append(found[0])
        return text[found.end() :]

    def _skip(self, text: str) -> str:
        """Put what stands between calls aside."""
        start = text.lstrip(self._layout.separator + SPACE if self._called else SPACE)
        if len(start) < len(text):
            self._gap.append(text[: len(text) - len(start)])
        return start

    def _show(self, text: str, events: list[Event]) -> None:
        body = text.rstrip(SPACE)
        if body:
            self._open_content(events, body)
        if len(body) < len(text):
            self._gap.append(text[len(body) :])

    def _take(self, read: list[Event], events: list[Event]) -> None:
        if read and isinstance(read[0], ToolCall):
            self._gap.clear()
            self._called = self._fresh = True
        elif read:
            self._open_content(events, "")
        events += read

    def _open_content(self, events: list[Event], text: str) -> None:
        """Emit text behind the gap before it, which was none of a call's."""
        whole = "".join(self._gap) + text
        shown = whole if self._started else whole.lstrip(SPACE)
        self._gap.clear()
        self._started, self._fresh = True, False
        if shown:
            events.append(Content(shown))


@lru_cache(maxsize=256)
def _edge_of(markers: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern that finds where markup may begin, and whitespace that may stand before it."""
    firsts = "".join(sorted({marker[0] for marker in markers}))
    return re.compile(rf"[{re.escape(firsts)}]|\s\Z")


class Between:
    """Reads a call up to its closing marker."""

    def __init__(self, opening: str, end: Until, parse: Callable[[str], ToolCall | None]) -> None:
        self._opening = opening
        self._end = end
        self._parse = parse

    def push(self, text: str) -> Read | None:
        found = self._end.push(text)
        if found is None:
            return None
        call = self._parse(found.before)
        return Read([call or Malformed(self._opening + found.before + found.marker)], found.rest)

    def finish(self) -> list[Event]:
        return [Malformed(self._opening + self._end.held())]
