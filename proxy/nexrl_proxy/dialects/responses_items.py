"""OpenAI Responses, the names of things in an output: which items belong to one reply, and how custom calls are told.

Replies spell them, later requests are read by them. An item's id names its reply, so that items which clients moved
around are put together again; clients that drop ids are served by the items' order alone.
"""

import re

import msgspec

from nexrl_proxy.dialects.responses_tools import INPUT

MARK = "nxr"
WHOLE = "_json"
"""Ends the id of a call whose custom tool was not given `{"input": text}`: its input is all of its arguments."""
_ID = re.compile(rf"[a-z]+_{MARK}(?P<reply>.+?)(?:\.\d+)?")


def item_id(kind: str, response: str, place: int | None = None) -> str:
    """Return an item's id.

    Example: kind fc, response resp_a1, place 0 -> fc_nxra1.0
    """
    reply = response.removeprefix("resp_")
    return f"{kind}_{MARK}{reply}" if place is None else f"{kind}_{MARK}{reply}.{place}"


def reply_of(item: str | None) -> str | None:
    """Return which reply the item with this id is part of; None where the id is not ours."""
    found = _ID.fullmatch(item) if item else None
    return found["reply"] if found else None


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
