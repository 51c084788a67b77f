"""Tool calls as Llama 3 writes them: `{"name": ..., "parameters": {...}}`, bare or behind `<|python_tag|>`.

Several stand behind each other, with `;` between them. A bare object is read as a call only where nothing but calls
stands before it, and only if its first key is one that calls have: an answer in JSON stays an answer. What follows the
tag and is no JSON (code for the built-in interpreter) is shown as text.
"""

from nexrl_proxy.parsers import Content, Event, Malformed, ToolFormat
from nexrl_proxy.parsers.calls import CallParser, Layout, Read
from nexrl_proxy.parsers.scan import SPACE, JsonValue
from nexrl_proxy.parsers.written import calls_of, quoted

TAG = "<|python_tag|>"
_KEYS = ('"name"', '"type"', '"function"', '"parameters"', '"arguments"')


class LlamaReader:
    """Reads one object."""

    def __init__(self, tag: str) -> None:
        self._tag = tag
        self._value = JsonValue()
        self._begun = None if tag else ""
        """A bare object's first characters, while they do not yet say whether it is a call."""

    def push(self, text: str) -> Read | None:
        if self._begun is not None:
            self._begun += text
            first = self._begun[1:].lstrip(SPACE)
            is_call = first.startswith(_KEYS)
            if not is_call and not any(key.startswith(first) for key in _KEYS):
                return Read([Content("{")], self._begun[1:])
            if not is_call:
                return None
            text, self._begun = self._begun, None
        value = self._value.push(text)
        if value is None:
            return None
        calls = None if value.broken else calls_of(value.text)
        return Read(list(calls) if calls else [Malformed(self._tag + value.text)], value.rest)

    def finish(self) -> list[Event]:
        if self._begun is not None:
            return [Content(self._begun)]
        return [Malformed(self._tag + self._value.held())]


LAYOUT = Layout(openings=(TAG,), reader=LlamaReader, bare="{", separator=";")


def forced(name: str | None) -> str:
    """Return how a call begins: up to its name, or up to the parameters of the tool `name`."""
    return '{"name": ' + (f'{quoted(name)}, "parameters": ' if name else '"')


FORMAT = ToolFormat(
    name="llama3",
    evidence=("<|start_header_id|>", '"parameters": '),
    parser=lambda _: CallParser(LAYOUT),
    forced=forced,
    markers=frozenset({TAG}),
    endings=frozenset({"<|eom_id|>"}),
)
