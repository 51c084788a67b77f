"""How each format spells calls, and a reader that feeds a parser in pieces: what the parser tests share."""

import itertools
import json
from collections.abc import Callable, Iterable
from typing import Any

from msgspec import Struct

from nexrl_proxy.parsers import Content, Event, Parser, Reasoning, ToolCall
from nexrl_proxy.parsers.choose import Parsers


class Spelling(Struct, frozen=True, kw_only=True):
    """A tool format as a model writes it."""

    call: Callable[[str, dict[str, Any]], str]
    broken: tuple[str, ...]
    """Calls that cannot be parsed, each complete in itself."""
    markup: tuple[str, ...]
    """Pieces to build nonsense from."""
    reasoning: str = "none"
    separator: str = "\n"


def hermes(name: str, arguments: dict[str, Any]) -> str:
    return f'<tool_call>\n{{"name": "{name}", "arguments": {dumps(arguments)}}}\n</tool_call>'


def llama3(name: str, arguments: dict[str, Any]) -> str:
    return f'<|python_tag|>{{"name": "{name}", "parameters": {dumps(arguments)}}}'


def deepseek_v3(name: str, arguments: dict[str, Any]) -> str:
    return f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{dumps(arguments)}\n```<｜tool▁call▁end｜>"


def deepseek_v31(name: str, arguments: dict[str, Any]) -> str:
    return f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{dumps(arguments)}<｜tool▁call▁end｜>"


def mistral(name: str, arguments: dict[str, Any]) -> str:
    return f'[TOOL_CALLS] [{{"name": "{name}", "arguments": {dumps(arguments)}, "id": "abcdefghi"}}]'


def mistral_v11(name: str, arguments: dict[str, Any]) -> str:
    return f"[TOOL_CALLS]{name}[CALL_ID]abcdefghi[ARGS]{dumps(arguments)}"


def glm(name: str, arguments: dict[str, Any]) -> str:
    pairs = "".join(
        f"<arg_key>{key}</arg_key>\n<arg_value>{value if isinstance(value, str) else dumps(value)}</arg_value>\n"
        for key, value in arguments.items()
    )
    return f"<tool_call>{name}\n{pairs}</tool_call>"


def qwen3_coder(name: str, arguments: dict[str, Any]) -> str:
    pairs = "".join(
        f"<parameter={key}>\n{dumps(value) if isinstance(value, dict | list) else value}\n</parameter>\n"
        for key, value in arguments.items()
    )
    return f"<tool_call>\n<function={name}>\n{pairs}</function>\n</tool_call>"


def kimi(name: str, arguments: dict[str, Any]) -> str:
    return f"<|tool_call_begin|>functions.{name}:0<|tool_call_argument_begin|>{dumps(arguments)}<|tool_call_end|>"


def minimax(name: str, arguments: dict[str, Any]) -> str:
    pairs = "".join(
        f'<parameter name="{key}">{value if isinstance(value, str) else dumps(value)}</parameter>\n'
        for key, value in arguments.items()
    )
    return f'<minimax:tool_call>\n<invoke name="{name}">\n{pairs}</invoke>\n</minimax:tool_call>'


def deepseek_v32(name: str, arguments: dict[str, Any]) -> str:
    pairs = "\n".join(
        f'<｜DSML｜parameter name="{key}" string="{"true" if isinstance(value, str) else "false"}">'
        f"{value if isinstance(value, str) else dumps(value)}</｜DSML｜parameter>"
        for key, value in arguments.items()
    )
    invoked = f'<｜DSML｜invoke name="{name}">\n{pairs}\n</｜DSML｜invoke>'
    return f"<｜DSML｜function_calls>\n{invoked}\n</｜DSML｜function_calls>"


def harmony(name: str, arguments: dict[str, Any]) -> str:
    return f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{dumps(arguments)}<|call|>"


def pythonic(name: str, arguments: dict[str, Any]) -> str:
    return (
        f"<|python_start|>[{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})]<|python_end|>"
    )


JSON_PIECES = ('{"name": "f", "arguments": {"a": 1}}', '{"name"', '"', "\\", "{", "}", "[", "]", "</tool_call>", ";")
DEEPSEEK = tuple(f"<｜tool▁{name}｜>" for name in ("calls▁begin", "calls▁end", "call▁begin", "call▁end", "sep"))
KIMI = tuple(f"<|tool_{name}|>" for name in ("calls_section_begin", "calls_section_end", "call_begin", "call_end"))
HARMONY = tuple(f"<|{name}|>" for name in ("start", "channel", "message", "constrain", "end", "call", "return"))
SPELLINGS: dict[str, Spelling] = {
    "hermes": Spelling(
        call=hermes,
        broken=('<tool_call>{"name": "f"}</tool_call>', "<tool_call>look</tool_call>"),
        markup=("<tool_call>", *JSON_PIECES),
    ),
    "llama3": Spelling(
        call=llama3,
        broken=('<|python_tag|>{"name": 3, "parameters": {}}',),
        markup=("<|python_tag|>", '{"name": "f", "parameters": {}}', "; ", *JSON_PIECES),
        separator="; ",
    ),
    "deepseek-v3": Spelling(
        call=deepseek_v3,
        broken=("<｜tool▁call▁begin｜>function<｜tool▁call▁end｜>",),
        markup=(*DEEPSEEK, "function", "f\n```json\n{}\n```", *JSON_PIECES),
    ),
    "deepseek-v3.1": Spelling(
        call=deepseek_v31,
        broken=("<｜tool▁call▁begin｜>f<｜tool▁sep｜>{<｜tool▁call▁end｜>",),
        markup=(*DEEPSEEK, "f", "{}", *JSON_PIECES),
    ),
    "mistral": Spelling(
        call=mistral,
        broken=('[TOOL_CALLS][{"name": "f"}]',),
        markup=("[TOOL_CALLS]", "[ARGS]", "[", "[{", "}]", "]", *JSON_PIECES),
    ),
    "mistral-v11": Spelling(
        call=mistral_v11,
        broken=("[TOOL_CALLS]f[ARGS][1]", "[TOOL_CALLS][ARGS]"),
        markup=("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "[AR", "f", "{}", *JSON_PIECES),
    ),
    "glm": Spelling(
        call=glm,
        broken=("<tool_call>f\n<arg_key>a</arg_key></tool_call>", "<tool_call></tool_call>"),
        markup=("<tool_call>f\n", "</tool_call>", "<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>", "<"),
    ),
    "qwen3-coder": Spelling(
        call=qwen3_coder,
        broken=("<tool_call>\n<function=f>\n</tool_call>", "<tool_call></tool_call>"),
        markup=("<tool_call>", "</tool_call>", "<function=f>", "</function>", "<parameter=a>", "</parameter>", "<"),
    ),
    "kimi": Spelling(
        call=kimi,
        broken=("<|tool_call_begin|>functions.f:0<|tool_call_end|>", "<|tool_call_begin|><|tool_call_end|>"),
        markup=(*KIMI, "<|tool_call_argument_begin|>", "functions.f:0", "{}", *JSON_PIECES),
    ),
    "minimax": Spelling(
        call=minimax,
        broken=(
            '<minimax:tool_call>\n<invoke name="f">\n</minimax:tool_call>',
            "<minimax:tool_call></minimax:tool_call>",
        ),
        markup=("<minimax:tool_call>", "</minimax:tool_call>", '<invoke name="f">', "</invoke>",
                '<parameter name="a">', "</parameter>", "<"),
    ),
    "deepseek-v3.2": Spelling(
        call=deepseek_v32,
        broken=(
            '<｜DSML｜function_calls>\n<｜DSML｜invoke name="f">\n</｜DSML｜function_calls>',
            '<｜DSML｜function_calls><｜DSML｜invoke name=""></｜DSML｜invoke></｜DSML｜function_calls>',
        ),
        markup=(
            *("<｜DSML｜function_calls>", "</｜DSML｜function_calls>", '<｜DSML｜invoke name="f">'),
            *("</｜DSML｜invoke>", '<｜DSML｜parameter name="a" string="true">', "</｜DSML｜parameter>", "<"),
        ),
    ),
    "harmony": Spelling(
        call=harmony,
        broken=(
            "<|channel|>commentary to=functions.f<|message|>{<|call|>",
            "<|channel|>analysis to=python<|message|>1<|end|>",
        ),
        markup=(*HARMONY, "assistant", "analysis", "final", "to=", "to=functions.f", "<|", *JSON_PIECES),
        reasoning="harmony",
    ),
    "pythonic": Spelling(
        call=pythonic,
        broken=tuple(f"<|python_start|>[{call}]<|python_end|>" for call in ("f(1)", "f(a=b)", "f(), 2", "f(**{})")),
        markup=(
            *("<|python_start|>", "<|python_end|>", "[f(a=1)]", "[f(", ")", "a=", ",", "'''", "'", '"""'),
            *JSON_PIECES,
        ),
        separator=" ",
    ),
    "none": Spelling(call=lambda name, _: name, broken=("{",), markup=("{",)),
}  # fmt: skip
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "parameters": {"type": "object", "properties": {"where": {"type": "string"}, "depth": {"type": "integer"}}},
        },
    }
]


def parser_of(tool_format: str, *, reasoning: str | None = None, prompt_end: str = "", template: str = "") -> Parser:
    """Return a parser as the proxy makes it."""
    named = SPELLINGS[tool_format].reasoning if reasoning is None or tool_format == "harmony" else reasoning
    parsers = Parsers(tools=tool_format, reasoning=named, template=template)
    return parsers.parser(with_tools=True, prompt_end=prompt_end, tools=TOOLS)


def read(parser: Parser, text: str, at: Iterable[int] = ()) -> list[Event]:
    """Return what a parser makes of text that is cut at these places."""
    edges = [0, *sorted(place for place in at if place < len(text)), len(text)]
    events = [event for start, end in itertools.pairwise(edges) for event in parser.push(text[start:end])]
    return joined([*events, *parser.finish()])


def joined(events: list[Event]) -> list[Event]:
    """Merge neighbouring events of one kind; tool calls stay apart."""
    merged: list[Any] = []
    for event in events:
        if merged and type(event) is type(merged[-1]) and isinstance(event, Content | Reasoning):
            merged[-1] = type(event)(merged[-1].text + event.text)
        else:
            merged.append(event)
    return merged


def shown(events: list[Event]) -> str:
    """Return all that is shown as text."""
    return "".join(event.text for event in events if not isinstance(event, ToolCall))


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
