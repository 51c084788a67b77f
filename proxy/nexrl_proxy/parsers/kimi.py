"""Tool calls as Kimi K2 writes them, between tokens of their own.

`<|tool_calls_section_begin|><|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{...}<|tool_call_end|>
<|tool_calls_section_end|>`. What stands before the arguments is the call's id, made of the tool's name and the number
of calls before it in the conversation. The agent gets an id of ours, as from every format.
"""

import re

from nexrl_proxy.parsers import ToolCall, ToolFormat
from nexrl_proxy.parsers.calls import Between, CallParser, Layout
from nexrl_proxy.parsers.scan import JSON_STRINGS, SPACE, Until
from nexrl_proxy.parsers.written import named_call

ALL_OPENING, ALL_CLOSING = "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"
OPENING, CLOSING = "<|tool_call_begin|>", "<|tool_call_end|>"
ARGUMENTS = "<|tool_call_argument_begin|>"
_ID = re.compile(r"(?:functions\.)?(.+?)(?::\d+)?", re.DOTALL)


def _reader(opening: str) -> Between:
    return Between(opening, Until((CLOSING,), JSON_STRINGS), parse)


LAYOUT = Layout(openings=(OPENING,), reader=_reader, wrappers=(ALL_OPENING, ALL_CLOSING))


def parse(body: str) -> ToolCall | None:
    """Return the call between the tokens; None where it is malformed.

    Example: ` functions.look:0<|tool_call_argument_begin|>{"a": 1}` -> look, {"a": 1}
    """
    before, parted, arguments = body.partition(ARGUMENTS)
    name = _ID.fullmatch(before.strip(SPACE))
    return named_call(name[1], arguments.strip(SPACE)) if parted and name else None


def forced(name: str | None) -> str:
    """Return how a call begins: up to its name, or up to the arguments of the tool `name`.

    A named tool's id ends in 0, the number of a conversation's first call, whichever call it is: formats are not told
    what was called before.
    """
    return f"{ALL_OPENING}{OPENING}functions." + (f"{name}:0{ARGUMENTS}" if name else "")


FORMAT = ToolFormat(
    name="kimi",
    evidence=(ARGUMENTS,),
    parser=lambda _: CallParser(LAYOUT),
    forced=forced,
    markers=frozenset({ALL_OPENING, ALL_CLOSING, OPENING, CLOSING, ARGUMENTS}),
)
