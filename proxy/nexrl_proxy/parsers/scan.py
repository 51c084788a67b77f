"""Find the end of something in text that arrives in pieces: each character is looked at once, or a few times.

What a format makes of the text is for its own file; nothing here knows one.
"""

import re
from collections.abc import Mapping
from functools import lru_cache

from msgspec import Struct

IN_STRING = re.compile(r'"|\\[^\x00-\x1f]|[\x00-\x1f]')
"""What matters inside a JSON string: its end, an escape, or a character no string may hold (which ends it, too)."""
JSON_STRINGS: Mapping[str, re.Pattern[str]] = {'"': IN_STRING}
_STRUCTURE = re.compile(r'["{}\[\]]')
SPACE = " \t\n\r\f\v"
"""What may stand between markup without being content."""
_REACH = 32
"""No marker is longer."""


@lru_cache(maxsize=256)
def any_of(markers: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern that finds the first of some markers. None may contain the beginning of another."""
    return re.compile("|".join(map(re.escape, markers)))


def partial(text: str, markers: tuple[str, ...]) -> int:
    """Return how many characters at the end of `text` may be the beginning of a marker (never all of it)."""
    longest = 0
    for marker in markers:
        start = text.find(marker[0], max(0, len(text) - len(marker) + 1))
        while start >= 0:
            if marker.startswith(text[start:]):
                longest = max(longest, len(text) - start)
                break
            start = text.find(marker[0], start + 1)
    return longest


class Found(Struct, frozen=True):
    """Text cut at a marker."""

    before: str
    marker: str
    rest: str


class Until:
    """Collects text up to the first marker that stands outside of shields.

    A shield begins with a key of `shields` and ends with what its pattern finds, escapes excepted: the string
    `{"a": "</tool_call>"}` does not end a call.
    """

    def __init__(self, markers: tuple[str, ...], shields: Mapping[str, re.Pattern[str]] | None = None) -> None:
        self._shields = shields or {}
        self._outer = any_of((*markers, *self._shields))
        self._inner: re.Pattern[str] | None = None
        self._parts: list[str] = []
        self._tail = ""

    def push(self, text: str) -> Found | None:
        """Return the text before the marker and after it, once it has come."""
        text, place = self._tail + text, 0
        while match := (self._inner or self._outer).search(text, place):
            place, token = match.end(), match[0]
            if self._inner:
                self._inner = self._inner if token[0] == "\\" else None
            elif token in self._shields:
                self._inner = self._shields[token]
            else:
                return Found("".join(self._parts) + text[: match.start()], token, text[place:])
        kept = max(place, len(text) - _REACH)
        self._parts.append(text[:kept])
        self._tail = text[kept:]
        return None

    def held(self) -> str:
        """Return everything collected, where the marker never came."""
        return "".join(self._parts) + self._tail


class Value(Struct, frozen=True):
    """A JSON object or array, cut off from what follows; or, where `broken`, text that cannot become one."""

    text: str
    rest: str
    broken: bool = False


class JsonValue:
    """Collects one JSON object or array, whitespace before it included: up to the bracket that closes it."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._tail = ""
        self._depth = 0
        self._in_string = False

    def push(self, text: str) -> Value | None:
        """Return the value once it is closed, or broken: by no bracket where it begins, or a string's raw newline."""
        text, place = self._tail + text, 0
        if not self._depth:
            start = text.lstrip(SPACE)
            if start and start[0] not in "{[":
                return self._ended(text, len(text) - len(start), broken=True)
        while match := (IN_STRING if self._in_string else _STRUCTURE).search(text, place):
            place, sign = match.end(), match[0]
            if self._in_string and sign < " ":
                return self._ended(text, match.start(), broken=True)
            if self._in_string or sign == '"':
                self._in_string = sign != '"' if self._in_string else True
                continue
            self._depth += 1 if sign in "{[" else -1
            if not self._depth:
                return self._ended(text, place)
        kept = len(text) - (self._in_string and text.endswith("\\", place))
        self._parts.append(text[:kept])
        self._tail = text[kept:]
        return None

    def held(self) -> str:
        """Return everything collected, where the value was never closed."""
        return "".join(self._parts) + self._tail

    def _ended(self, text: str, end: int, *, broken: bool = False) -> Value:
        return Value("".join(self._parts) + text[:end], text[end:], broken)
