"""Tool calls as DeepSeek writes them, between tokens of their own.

V3 and R1 put a kind before the separator and the arguments in a fenced block, V3.1 puts the name before it and the
arguments behind it; both are read, whichever is chosen. `forced_v3` and `forced_v31` show the two.
"""

from nexrl_proxy.parsers import ToolCall, ToolFormat
from nexrl_proxy.parsers.calls import Between, CallParser, Layout
from nexrl_proxy.parsers.scan import JSON_STRINGS, SPACE, Until
from nexrl_proxy.parsers.written import named_call

ALL_OPENING, ALL_CLOSING = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
OPENING, CLOSING = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
SEPARATOR = "<｜tool▁sep｜>"
FENCE = "```"


def _reader(opening: str) -> Between:
    return Between(opening, Until((CLOSING,), JSON_STRINGS), parse)


LAYOUT = Layout(openings=(OPENING,), reader=_reader, wrappers=(ALL_OPENING, ALL_CLOSING))


def parse(body: str) -> ToolCall | None:
    """Return the call between the tokens; None where it is malformed."""
    before, separated, after = body.partition(SEPARATOR)
    if not separated:
        return None
    name, _, block = after.partition("\n")
    block = block.strip(SPACE)
    if block.startswith(FENCE) and block.endswith(FENCE):
        language, _, code = block[len(FENCE) : -len(FENCE)].partition("\n")
        return named_call(name.strip(SPACE), code.strip(SPACE)) if language.strip(SPACE) in ("", "json") else None
    return named_call(before.strip(SPACE), after.strip(SPACE))


def forced_v3(name: str | None) -> str:
    """Return how a call begins: up to its name, or up to the arguments of the tool `name`."""
    return f"{ALL_OPENING}{OPENING}function{SEPARATOR}" + (f"{name}\n```json\n" if name else "")


def forced_v31(name: str | None) -> str:
    """Return how a call begins: up to its name, or up to the arguments of the tool `name`."""
    return ALL_OPENING + OPENING + (name + SEPARATOR if name else "")


_MARKERS = frozenset({ALL_OPENING, ALL_CLOSING, OPENING, CLOSING, SEPARATOR})
V3 = ToolFormat(
    name="deepseek-v3",
    evidence=(ALL_OPENING, "```json"),
    parser=lambda _: CallParser(LAYOUT),
    forced=forced_v3,
    markers=_MARKERS,
)
V31 = ToolFormat(
    name="deepseek-v3.1",
    evidence=(ALL_OPENING,),
    parser=lambda _: CallParser(LAYOUT),
    forced=forced_v31,
    markers=_MARKERS,
)
