r"""Tool calls as Qwen3-Coder writes them: a function and its parameters in tags.

`<tool_call>\n<function=NAME>\n<parameter=KEY>\nVALUE\n</parameter>\n</function>\n</tool_call>`. Values stand there
without quotes, one newline around them, so what they are follows from the tool's schema (`typed`). A closing tag
inside a value does not end the call.
"""

import re

from nexrl_proxy.parsers import ToolCall, ToolFormat, Tools
from nexrl_proxy.parsers.calls import Between, CallParser, Layout
from nexrl_proxy.parsers.scan import SPACE, Until
from nexrl_proxy.parsers.typed import arguments_of, types_of

OPENING, CLOSING = "<tool_call>", "</tool_call>"
FUNCTION, PARAMETER = "<function=", "<parameter="
_SHIELDS = {PARAMETER: re.compile("</parameter>")}
_FUNCTION = re.compile(r"<function=([^<>\n]+)>(.*)</function>", re.DOTALL)
_PAIR = re.compile(r"\s*<parameter=([^<>\n]+)>\n?(.*?)\n?</parameter>", re.DOTALL)


def parser(tools: Tools) -> CallParser:
    """Return a parser that types arguments after the tools' schemas."""

    def reader(opening: str) -> Between:
        return Between(opening, Until((CLOSING,), _SHIELDS), lambda body: parse(body, tools))

    return CallParser(Layout(openings=(OPENING,), reader=reader))


def parse(body: str, tools: Tools) -> ToolCall | None:
    """Return the call between the tags; None where it is malformed: no function, or anything beside its parameters."""
    function = _FUNCTION.fullmatch(body.strip(SPACE))
    if function is None:
        return None
    name, inside, place = function[1].strip(SPACE), function[2], 0
    pairs: dict[str, str] = {}
    while pair := _PAIR.match(inside, place):
        pairs[pair[1].strip(SPACE)] = pair[2]
        place = pair.end()
    if not name or inside[place:].strip(SPACE):
        return None
    return ToolCall(name, arguments_of(pairs, types_of(tools, name)))


def forced(name: str | None) -> str:
    """Return how a call begins: up to its name, or up to the parameters of the tool `name`."""
    return f"{OPENING}\n{FUNCTION}" + (f"{name}>\n" if name else "")


FORMAT = ToolFormat(
    name="qwen3-coder",
    evidence=(FUNCTION, PARAMETER),
    parser=parser,
    forced=forced,
    markers=frozenset({OPENING, CLOSING}),
)
