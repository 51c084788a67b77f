"""OpenAI Responses, the names of things in an output: which items belong to one reply, and how custom calls are told.

Replies spell them, later requests are read by them. An item's id names its reply, so that items which clients moved
around are put together again, and clients may send an id in place of an item; clients that drop ids are served by the
items' order alone.
"""

import re
from typing import Any

import msgspec

from nexrl_proxy.dialects.responses_tools import INPUT

MARK = "nxr"
WHOLE = "_json"
"""Ends the id of a call whose custom tool was not given `{"input": text}`: its input is all of its arguments."""
_ID = re.compile(rf"(?P<kind>[a-z]+)_{MARK}(?P<reply>.+?)(?:\.(?P<place>\d+))?")
RESPONSE = "resp_"
"""Response ids begin with it."""


def item_id(kind: str, response: str, place: int | None = None) -> str:
    """Return an item's id.

    Example: kind fc, response resp_a1, place 0 -> fc_nxra1.0
    """
    reply = response.removeprefix(RESPONSE)
    return f"{kind}_{MARK}{reply}" if place is None else f"{kind}_{MARK}{reply}.{place}"


def reply_of(item: str | None) -> str | None:
    """Return which reply the item with this id is part of; None where the id is not ours."""
    found = _ID.fullmatch(item) if item else None
    return found["reply"] if found else None


def response_of(item: str) -> str | None:
    """Return the id of the response whose item this id names; None where it is not ours."""
    reply = reply_of(item)
    return RESPONSE + reply if reply else None


def add_item(message: dict[str, Any], item: str, reply: dict[str, Any]) -> bool:
    """Add to an assistant message the part of a reply that an item's id names; returns whether there is one."""
    found = _ID.fullmatch(item)
    calls: list[Any] = reply.get("tool_calls") or []
    match found and (found["kind"], found["place"]):
        case ("rs", None) if text := reply.get("reasoning_content"):
            message["reasoning_content"] = message.get("reasoning_content", "") + text
        case ("msg", None):
            message["content"] = (message["content"] or "") + (reply.get("content") or "")
        case ("fc" | "ctc", str(place)) if int(place) < len(calls):
            message["tool_calls"] = [*message.get("tool_calls", ()), calls[int(place)]]
        case _:
            return False
    return True


def told(call: str, arguments: str) -> tuple[str, str]:
    """Return the call id and the input of a custom tool's call, from the arguments the model wrote."""
    try:
        written = msgspec.json.decode(arguments)
    except msgspec.DecodeError:  # an engine that parses calls itself may pass on anything
        written = None
    match written:
        case {"input": str(text), **others} if not others:
            return call, text
        case _:
            return call + WHOLE, arguments


def untold(call: str, text: str) -> tuple[str, str]:
    """Return a custom tool's call as the model wrote it; `untold(*told(call, arguments))` has equal values."""
    if call.endswith(WHOLE):
        return call.removesuffix(WHOLE), text
    return call, msgspec.json.encode({INPUT: text}).decode()
