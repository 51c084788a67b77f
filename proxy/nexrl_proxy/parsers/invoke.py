r"""Tool calls as blocks of invocations with their parameters in tags: MiniMax M2, and DeepSeek V3.2's DSML.

`<minimax:tool_call>\n<invoke name="NAME">\n<parameter name="KEY">VALUE</parameter>\n</invoke>\n</minimax:tool_call>`,
as many invocations in a block as there are calls. MiniMax writes values without quotes, so what they are follows from
the tool's schema (`typed`). DSML has its mark in every tag, and says of each value whether it is a string or JSON. A
closing tag inside a value does not end the call.
"""

import re
from collections.abc import Callable

from msgspec import Struct

from nexrl_proxy.parsers import Event, Malformed, ToolCall, ToolFormat, Tools
from nexrl_proxy.parsers.calls import CallParser, Layout, Read
from nexrl_proxy.parsers.scan import SPACE, Until
from nexrl_proxy.parsers.typed import arguments_of, types_of
from nexrl_proxy.parsers.written import named_call, quoted

DSML = "｜DSML｜"
_KINDS = {' string="true"': True, ' string="false"': False}
"""What a DSML parameter's further attribute says: whether its value is a string."""


class Blocks(Struct, frozen=True, kw_only=True):
    """One of the formats: how its tags are spelled, and what a block of them says."""

    block: str
    """The block's name."""
    mark: str = ""
    """What stands before every tag's name."""
    says_strings: bool = False
    """Whether each parameter says what it is."""

    @property
    def opening(self) -> str:
        return f"<{self.block}>"

    @property
    def closing(self) -> str:
        return f"</{self.block}>"

    def end(self) -> Until:
        """Return what finds the end of a block."""
        return Until((self.closing,), {f"<{self.mark}parameter name=": re.compile(f"</{self.mark}parameter>")})

    def parser(self, tools: Tools) -> CallParser:
        """Return a parser that types arguments after the tools' schemas, where the format does not say."""
        return CallParser(Layout(openings=(self.opening,), reader=lambda _: Block(self, tools)))

    def forced(self, name: str | None) -> str:
        """Return how a call begins: up to its name, or up to the parameters of the tool `name`."""
        return f'{self.opening}\n<{self.mark}invoke name="' + (f'{name}">\n' if name else "")

    def calls(self, body: str, tools: Tools) -> list[ToolCall] | None:
        """Return the calls of a block; None where one is malformed, there is none, or anything stands beside them."""
        calls: list[ToolCall] = []
        place = 0
        while opened := self._tag('invoke name="([^"<>\n]+)"').match(body, place):
            pairs: list[tuple[str, str, str]] = []
            place = opened.end()
            while pair := self._parameter.match(body, place):
                pairs.append((pair[1], pair[2], pair[3]))
                place = pair.end()
            closed = self._tag("invoke", end=True).match(body, place)
            call = self._call(opened[1], pairs, tools)
            if not closed or not call:
                return None
            calls.append(call)
            place = closed.end()
        return None if body[place:].strip(SPACE) else calls or None

    def _call(self, name: str, pairs: list[tuple[str, str, str]], tools: Tools) -> ToolCall | None:
        if not self.says_strings:
            return ToolCall(name, arguments_of({key: value for key, _, value in pairs}, types_of(tools, name)))
        if not all(kind in _KINDS for _, kind, _ in pairs):
            return None
        items = [
            f"{quoted(key)}: {quoted(value) if _KINDS[kind] else value.strip(SPACE)}" for key, kind, value in pairs
        ]
        return named_call(name, "{" + ", ".join(items) + "}")

    @property
    def _parameter(self) -> re.Pattern[str]:
        """What finds a parameter: its name, its further attributes, its value."""
        return re.compile(
            rf'\s*<{self.mark}parameter name="([^"<>\n]+)"([^<>\n]*)>(.*?)</{self.mark}parameter>', re.DOTALL
        )

    def _tag(self, inside: str, *, end: bool = False) -> re.Pattern[str]:
        return re.compile(rf"\s*<{'/' if end else ''}{self.mark}{inside}>")


class Block:
    """Reads one block."""

    def __init__(self, blocks: Blocks, tools: Tools) -> None:
        self._blocks = blocks
        self._tools = tools
        self._end = blocks.end()

    def push(self, text: str) -> Read | None:
        found = self._end.push(text)
        if found is None:
            return None
        calls = self._blocks.calls(found.before, self._tools)
        written = Malformed(self._blocks.opening + found.before + found.marker)
        return Read([*calls] if calls else [written], found.rest)

    def finish(self) -> list[Event]:
        return [Malformed(self._blocks.opening + self._end.held())]


def _format(name: str, blocks: Blocks) -> ToolFormat:
    parser: Callable[[Tools], CallParser] = blocks.parser
    return ToolFormat(
        name=name,
        evidence=(blocks.opening,),
        parser=parser,
        forced=blocks.forced,
        markers=frozenset({blocks.opening, blocks.closing, *({blocks.mark} if blocks.mark else ())}),
    )


MINIMAX = _format("minimax", Blocks(block="minimax:tool_call"))
DEEPSEEK = _format("deepseek-v3.2", Blocks(block=f"{DSML}function_calls", mark=DSML, says_strings=True))
