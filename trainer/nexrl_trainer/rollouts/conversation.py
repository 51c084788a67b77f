"""What was said in a session: its calls put together again to the conversation that reward functions read. Pure."""

from collections.abc import Mapping
from typing import Any, cast


def longest_conversation(session: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages along the session's longest chain, each call's new ones and its reply in turn."""
    calls = {call["id"]: call for call in session["calls"]}
    lines = [_from_the_start(chain, calls) for chain in session["chains"] if chain]
    chain = max(lines, key=len, default=[])
    # A call without a parent brings the whole conversation, also where its tokens were found to extend a chain.
    start = max((place for place, id_ in enumerate(chain) if calls[id_]["parent"] is None), default=0)
    return [message for id_ in chain[start:] for message in (*calls[id_]["messages"], calls[id_]["reply"])]


def last_message(session: dict[str, Any]) -> str:
    """Return the text of the conversation's last message of the model; empty where it said none.

    Example: {"role": "assistant", "content": [{"type": "text", "text": "42"}]} -> "42"
    """
    said = [message for message in longest_conversation(session) if message.get("role") == "assistant"]
    content = said[-1].get("content") if said else None
    if isinstance(content, list):
        parts = cast("list[Any]", content)
        content = "".join(part.get("text") or "" for part in parts if isinstance(part, dict))
    return str(content or "").strip()


def _from_the_start(chain: list[str], calls: Mapping[str, Any]) -> list[str]:
    """Put before a branch the calls it branched from."""
    line = list(chain)
    while (parent := calls[line[0]]["parent"]) in calls:
        line.insert(0, parent)
    return line
