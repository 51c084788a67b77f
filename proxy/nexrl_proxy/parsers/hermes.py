"""Tool calls as Hermes and Qwen write them: `<tool_call>{"name": ..., "arguments": {...}}</tool_call>`.

The closing tag inside a JSON string of the arguments does not end the call. A string that is never closed ends at its
line's end, where JSON has no raw newlines; so one forgotten quote costs one call.
"""

from nexrl_proxy.parsers import ToolFormat
from nexrl_proxy.parsers.calls import Between, CallParser, Layout
from nexrl_proxy.parsers.scan import JSON_STRINGS, Until
from nexrl_proxy.parsers.written import call_of, quoted

OPENING = "<tool_call>"
CLOSING = "</tool_call>"


def _reader(opening: str) -> Between:
    return Between(opening, Until((CLOSING,), JSON_STRINGS), call_of)


LAYOUT = Layout(openings=(OPENING,), reader=_reader)


class HermesParser(CallParser):
    """Emits a call when its closing tag has arrived."""

    def __init__(self) -> None:
        super().__init__(LAYOUT)


def forced(name: str | None) -> str:
    """Return how a call begins: up to its name, or up to the arguments of the tool `name`."""
    begun = OPENING + '\n{"name": '
    return begun + (f'{quoted(name)}, "arguments": ' if name else '"')


FORMAT = ToolFormat(
    name="hermes",
    evidence=(OPENING,),
    parser=lambda _: HermesParser(),
    forced=forced,
    markers=frozenset({OPENING, CLOSING}),
)
