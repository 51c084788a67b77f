"""Tool calls as a Python list: `[look(where="here"), wait(seconds=3)]`, bare or between `<|python_start|>` and its end.

Llama 4 and Llama 3.2 write them so where they are asked to, and models trained on ToolACE. A list is read as calls only
where nothing but calls stands before it, and only if it begins with a name and a bracket: any other list is an answer.
Values are Python's literals, or JSON's `true`, `false` and `null`; nothing is evaluated.
"""

import ast
import json
import re
from typing import Any

from nexrl_proxy.parsers import Content, Event, Malformed, ToolCall, ToolFormat
from nexrl_proxy.parsers.calls import CallParser, Layout, Read
from nexrl_proxy.parsers.scan import SPACE

START, END = "<|python_start|>", "<|python_end|>"
NAME = re.compile(r"[A-Za-z_][\w.-]*", re.ASCII)
_BEGUN = re.compile(rf"\s*(?:\[\s*(?:{NAME.pattern}\s*(?P<call>\()?)?)?", re.ASCII)
_OUTSIDE = re.compile(r"'''|\"\"\"|['\"\[\](){}]")
_INSIDE = {quote: re.compile(rf"\\.|{quote}", re.DOTALL) for quote in ("'", '"', "'''", '"""')}
"""What matters in a string, by its quote: its end, and escapes."""
_QUOTE = 3
"""Characters of the longest quote: so many must be there to tell which one it is."""
_UNREADABLE = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)
_JSON_NAMES = {"true": True, "false": False, "null": None}


class ListReader:
    """Reads one list of calls."""

    def __init__(self, opening: str) -> None:
        self._opening = opening
        self._parts: list[str] = []
        self._tail = ""
        self._sure = False
        """It begins as a call does."""
        self._depth = 0
        self._quote = ""
        """That of the string that is open."""
        self._list: str | None = None
        """What was written, once it is closed."""

    def push(self, text: str) -> Read | None:
        text = self._tail + text
        self._tail = ""
        if not self._sure:
            begun = _BEGUN.match(text)
            assert begun  # as nothing does
            self._sure = begun["call"] is not None
            if not self._sure and begun.end() < len(text):
                return Read([Malformed(self._opening)], text) if self._opening else Read([Content("[")], text[1:])
            if not self._sure:
                self._tail = text
                return None
        if self._list is None:
            end = self._end(text)
            if end is None:
                return None
            self._list, text = "".join(self._parts) + text[:end], text[end:]
        return self._closed(text)

    def finish(self) -> list[Event]:
        if self._list is not None:
            return self._read(self._list, self._tail)
        held = self._opening + "".join(self._parts) + self._tail
        return [Malformed(held) if self._sure or self._opening else Content(held)]

    def _closed(self, text: str) -> Read | None:
        """Return the calls with the mark behind them, which belongs to the one before them and may be missing."""
        behind = text.lstrip(SPACE)
        if behind.startswith(END):
            return Read(self._read(self._list or "", text[: len(text) - len(behind)] + END), behind[len(END) :])
        if END.startswith(behind):
            self._tail = text
            return None
        return Read(self._read(self._list or "", ""), text)

    def _read(self, written: str, behind: str) -> list[Event]:
        calls = calls_of(written)
        return [*calls] if calls else [Malformed(self._opening + written + behind)]

    def _end(self, text: str) -> int | None:
        """Return where the list is closed; keep the text where that has not come."""
        place = 0
        while match := _INSIDE.get(self._quote, _OUTSIDE).search(text, place):
            sign = match[0]
            if sign[0] in "'\"\\" and match.start() + _QUOTE > len(text):
                break  # what follows may belong to it
            place = match.end()
            if self._quote:
                self._quote = self._quote if sign[0] == "\\" else ""
            elif sign[0] in "'\"":
                self._quote = sign
            else:
                self._depth += 1 if sign in "[({" else -1
                if not self._depth:
                    return place
        kept = match.start() if match else max(place, len(text) - _QUOTE)
        self._parts.append(text[:kept])
        self._tail = text[kept:]
        return None


def calls_of(text: str) -> list[ToolCall] | None:
    """Return the calls of a list; None where it is none, or one of them has other than named arguments."""
    try:
        tree = ast.parse(text.strip(SPACE), mode="eval").body
        return [_call_of(item) for item in tree.elts] if isinstance(tree, ast.List) and tree.elts else None
    except _UNREADABLE:
        return None


def forced(name: str | None) -> str | None:
    """Return how a call begins: up to its name, or up to the arguments of the tool `name`; None for no such name."""
    if name is None:
        return "["
    return f"[{name}(" if NAME.fullmatch(name) and "-" not in name else None


def _call_of(node: ast.expr) -> ToolCall:
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError
    arguments = {keyword.arg: _value_of(keyword.value) for keyword in node.keywords}
    if None in arguments or len(arguments) < len(node.keywords):
        raise ValueError
    return ToolCall(ast.unparse(node.func), json.dumps(arguments, ensure_ascii=False, allow_nan=False))


def _value_of(node: ast.expr) -> Any:
    match node:
        case ast.Name(id=name) if name in _JSON_NAMES:
            return _JSON_NAMES[name]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_value_of(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            named = [str(ast.literal_eval(key or "**")) for key in keys]
            return dict(zip(named, map(_value_of, values), strict=True))
        case _:
            return ast.literal_eval(node)


LAYOUT = Layout(openings=(START,), reader=ListReader, bare="[")
FORMAT = ToolFormat(
    name="pythonic",
    parser=lambda _: CallParser(LAYOUT),
    forced=forced,
    markers=frozenset({START, END}),
)
