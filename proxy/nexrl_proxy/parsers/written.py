"""A tool call written as a JSON object: its name, and its arguments as the model spelled them."""

import msgspec
from msgspec import Raw, Struct

from nexrl_proxy.parsers import ToolCall

UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError)
_NOTHING = Raw()


class _Written(Struct):
    name: str
    arguments: Raw = _NOTHING
    parameters: Raw = _NOTHING


def call_of(text: str) -> ToolCall | None:
    """Return the call that a JSON object spells, with `arguments` or, as Llama says, `parameters`.

    None where it is malformed: no object, no name, arguments that are no object.
    """
    try:
        written = msgspec.json.decode(text, type=_Written)
    except UNREADABLE:
        return None
    return named_call(written.name, bytes(written.arguments or written.parameters).decode())


def calls_of(text: str) -> list[ToolCall] | None:
    """Return the calls of a JSON array, or of a single object; None where one of them is malformed."""
    try:
        written = msgspec.json.decode(text, type=list[Raw]) if text.lstrip().startswith("[") else [text]
    except UNREADABLE:
        return None
    calls = [call_of(item if isinstance(item, str) else bytes(item).decode()) for item in written]
    return [call for call in calls if call] if calls and all(calls) else None


def named_call(name: str, arguments: str) -> ToolCall | None:
    """Return the call of a tool with arguments in JSON; None without a name, or where they are no object."""
    try:
        if arguments.startswith('"'):  # some models write the object as a string, as the API itself does
            arguments = msgspec.json.decode(arguments, type=str)
        msgspec.json.decode(arguments, type=dict)
    except UNREADABLE:
        return None
    return ToolCall(name, arguments.strip()) if name else None


def quoted(text: str) -> str:
    """Return text as a JSON string."""
    return msgspec.json.encode(text).decode()
