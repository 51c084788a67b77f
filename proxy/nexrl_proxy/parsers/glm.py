r"""Tool calls as GLM 4.5 writes them: a name, then keys and values in tags.

`<tool_call>NAME\n<arg_key>KEY</arg_key>\n<arg_value>VALUE</arg_value>\n</tool_call>`. Strings stand there without
quotes, so what a value is follows from the tool's schema (`typed`). A closing tag inside a value does not end the call.
"""

import re

from nexrl_proxy.parsers import ToolCall, ToolFormat, Tools
from nexrl_proxy.parsers.calls import Between, CallParser, Layout
from nexrl_proxy.parsers.scan import SPACE, Until
from nexrl_proxy.parsers.typed import arguments_of, types_of

OPENING, CLOSING = "<tool_call>", "</tool_call>"
KEY, VALUE = "<arg_key>", "<arg_value>"
_SHIELDS = {VALUE: re.compile("</arg_value>")}
_PAIR = re.compile(r"\s*<arg_key>([^<]*)</arg_key>\s*<arg_value>(.*?)</arg_value>", re.DOTALL)


def parser(tools: Tools) -> CallParser:
    """Return a parser that types arguments after the tools' schemas."""

    def reader(opening: str) -> Between:
        return Between(opening, Until((CLOSING,), _SHIELDS), lambda body: parse(body, tools))

    return CallParser(Layout(openings=(OPENING,), reader=reader))


def parse(body: str, tools: Tools) -> ToolCall | None:
    """Return the call between the tags; None where it is malformed: no name, or anything beside keys and values."""
    found = body.find(KEY)
    place = len(body) if found < 0 else found
    name = body[:place].strip(SPACE)
    pairs: dict[str, str] = {}
    while pair := _PAIR.match(body, place):
        pairs[pair[1].strip(SPACE)] = pair[2]
        place = pair.end()
    if not name or "<" in name or "\n" in name or body[place:].strip(SPACE):
        return None
    return ToolCall(name, arguments_of(pairs, types_of(tools, name)))


def forced(name: str | None) -> str:
    """Return how a call begins: up to its name, or up to the arguments of the tool `name`."""
    return "\n" + OPENING + (f"{name}\n" if name else "")


FORMAT = ToolFormat(
    name="glm",
    evidence=(KEY,),
    parser=parser,
    forced=forced,
    markers=frozenset({OPENING, CLOSING, KEY, "</arg_key>", VALUE, "</arg_value>"}),
)
