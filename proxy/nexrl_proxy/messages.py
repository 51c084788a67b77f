"""Chat messages: as a template wants them, and as two turns are compared.

Pure. `normalised` applies the five rules that make real agents' messages render on real templates; `canonical` says
when an echoed message is the message that was sent, whatever the client's serialiser did to it.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from nexrl_proxy.errors import ApiError, unsupported

Message = dict[str, Any]


def normalised(messages: Sequence[Message]) -> list[Message]:
    """Return messages as chat templates expect them.

    The rules: role developer is system; null or absent content is ""; text parts are joined; tool arguments are
    objects where they parse; a tool message needs no id. Raises ApiError for parts that are not text.
    """
    return [_normalised(message, index) for index, message in enumerate(messages)]


def canonical(message: Message) -> bytes:
    """Return the bytes by which a normalised message is recognised when it comes back.

    Reasoning is left out (many clients drop it), tool arguments are compared as values, text without its outer
    whitespace.
    """
    calls = [_canonical_call(call) for call in message.get("tool_calls") or ()]
    parts = [message["role"], message["content"].strip(), calls, message.get("tool_call_id") or ""]
    return msgspec.json.encode(parts, order="sorted")


def text_of(content: Any, where: str) -> str:
    """Return a message's content as text; raises ApiError naming the part that is not text."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "".join(_part_text(part, f"{where}[{index}]") for index, part in enumerate(content))
    raise ApiError(f"{where}: content is a string or a list of text parts", param="messages")


def _normalised(message: Message, index: int) -> Message:
    role = message.get("role")
    if not isinstance(role, str) or not role:
        raise ApiError(f"messages[{index}].role is missing", param="messages")
    plain: Message = {
        "role": "system" if role == "developer" else role,
        "content": text_of(message.get("content"), f"messages[{index}].content"),
    }
    plain |= {name: message[name] for name in ("name", "tool_call_id", "reasoning_content") if message.get(name)}
    if calls := message.get("tool_calls"):
        plain["tool_calls"] = [_normalised_call(call, index) for call in calls]
    return plain


def _normalised_call(call: Any, index: int) -> Message:
    match call:
        case {"function": {"name": str(name), **function}}:
            arguments = _parsed(function.get("arguments"))
            plain: Message = {"type": "function", "function": {"name": name, "arguments": arguments}}
            return plain | ({"id": call["id"]} if call.get("id") else {})
        case _:
            raise ApiError(f"messages[{index}].tool_calls: each needs function.name", param="messages")


def _parsed(arguments: Any) -> Any:
    if not arguments:
        return {}
    if not isinstance(arguments, str):
        return arguments
    try:
        return msgspec.json.decode(arguments)
    except msgspec.DecodeError:
        return arguments


def _part_text(part: Any, where: str) -> str:
    match part:
        case str():
            return part
        case {"type": "text" | "input_text" | "output_text", "text": str(text)}:
            return text
        case {"type": "refusal", "refusal": str(text)}:
            return text
        case _:
            kind = part.get("type") if isinstance(part, dict) else type(part).__name__
            raise unsupported("messages", f"{where} is of type {kind!r}: only text parts are supported")


def _canonical_call(call: Message) -> list[Any]:
    return [call.get("id") or "", call["function"]["name"], _value(call["function"]["arguments"])]


def _value(value: Any) -> Any:
    """Fold what serialisers disagree on: 1.0 and 1 are one number."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case dict():
            return {name: _value(item) for name, item in value.items()}
        case list():
            return [_value(item) for item in value]
        case _:
            return value
