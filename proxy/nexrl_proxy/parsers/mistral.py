"""Tool calls as Mistral writes them: `[TOOL_CALLS][{"name": ..., "arguments": {...}}, ...]`, all calls in one array.

From the v11 tokenizer on it is `[TOOL_CALLS]NAME[ARGS]{...}` for each call, perhaps with `[CALL_ID]ID` behind the name.
Both are read, whichever is chosen. Ids the model makes up are not used: the proxy gives each call its own.
"""

import re

from nexrl_proxy.parsers import Event, Malformed, ToolCall, ToolFormat
from nexrl_proxy.parsers.calls import CallParser, Layout, Read
from nexrl_proxy.parsers.scan import SPACE, JsonValue, partial
from nexrl_proxy.parsers.written import calls_of, named_call, quoted

OPENING, ARGUMENTS, CALL_ID = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
_NOT_IN_NAME = re.compile(r"[^\w.\-\[\]]")
_LONGEST_NAME = 256
"""Whitespace before it included."""


class MistralReader:
    """Reads an array of calls, or one call's name and arguments."""

    def __init__(self, opening: str) -> None:
        self._head: str | None = opening
        """The opening and what stands before the JSON value; None once it is known to be complete."""
        self._name = ""
        self._before = opening
        self._value = JsonValue()

    def push(self, text: str) -> Read | None:
        if self._head is not None:
            self._head += text
            rest = self._read_head(self._head)
            if not isinstance(rest, str):
                return rest
            text, self._head = rest, None
        value = self._value.push(text)
        if value is None:
            return None
        calls = None if value.broken else self._calls(value.text)
        return Read(list(calls) if calls else [Malformed(self._before + value.text)], value.rest)

    def finish(self) -> list[Event]:
        return [Malformed(self._before + self._value.held() if self._head is None else self._head)]

    def _read_head(self, head: str) -> str | Read | None:
        """Return the text from the JSON value on; None to wait for more; the Read of what is no call."""
        written = head[len(OPENING) :]
        body = written.lstrip(SPACE)
        if body.startswith(("[", "{")):
            return written
        name, found, rest = body.partition(ARGUMENTS)
        if not found:
            name = body[: len(body) - partial(body, (ARGUMENTS,))]
        start = len(head) - len(body)
        wrong = _NOT_IN_NAME.search(name)
        end = min(start + (wrong.start() if wrong else len(name)), len(OPENING) + _LONGEST_NAME)
        if end < start + len(name):
            return Read([Malformed(head[:end])], head[end:])
        if not found:
            return None
        self._name = name.partition(CALL_ID)[0]
        self._before = head[: len(head) - len(rest)]
        return rest

    def _calls(self, text: str) -> list[ToolCall] | None:
        if not self._name:
            return calls_of(text) if self._before == OPENING else None
        call = named_call(self._name, text)
        return [call] if call else None


LAYOUT = Layout(openings=(OPENING,), reader=MistralReader)


def forced_array(name: str | None) -> str:
    """Return how a call begins: up to its name, or up to the arguments of the tool `name`."""
    return OPENING + '[{"name": ' + (f'{quoted(name)}, "arguments": ' if name else '"')


def forced_named(name: str | None) -> str:
    """Return how a call begins: up to its name, or up to the arguments of the tool `name`."""
    return OPENING + (name + ARGUMENTS if name else "")


NAMED = ToolFormat(
    name="mistral-v11",
    evidence=(OPENING, ARGUMENTS),
    parser=lambda _: CallParser(LAYOUT),
    forced=forced_named,
    markers=frozenset({OPENING, ARGUMENTS, CALL_ID}),
)
ARRAY = ToolFormat(
    name="mistral",
    evidence=(OPENING,),
    parser=lambda _: CallParser(LAYOUT),
    forced=forced_array,
    markers=frozenset({OPENING}),
)
