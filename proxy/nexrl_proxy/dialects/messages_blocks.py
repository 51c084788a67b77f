"""Anthropic's turns and content blocks, and the chat messages they are.

Pure. Consecutive turns of one role are one turn, as on Anthropic's servers, so a turn is the same message however a
client cuts it into blocks. Marks that say nothing to the model (cache breakpoints, signatures, citations) are dropped.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from nexrl_proxy.messages import Message

BETWEEN_BLOCKS = "\n"
# Claude Code opens its system prompt with this line, whose hash differs from request to request: no part of the prompt.
_BILLING = re.compile(r"\Ax-anthropic-billing-header:[^\n]*\n?")


class Text(Struct, frozen=True, tag="text"):
    text: str


class Thinking(Struct, frozen=True, tag="thinking"):
    thinking: str


class RedactedThinking(Struct, frozen=True, tag="redacted_thinking"):
    """Reasoning that only Anthropic can read."""


class ToolUse(Struct, frozen=True, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


class ToolResult(Struct, frozen=True, tag="tool_result"):
    tool_use_id: str
    content: str | list[Text] | None = None
    is_error: bool | None = None


class SystemTurn(Struct, frozen=True, tag="system", tag_field="role"):
    content: str | list[Text]


class UserTurn(Struct, frozen=True, tag="user", tag_field="role"):
    content: str | list[Text | ToolResult]


class AssistantTurn(Struct, frozen=True, tag="assistant", tag_field="role"):
    content: str | list[Text | Thinking | RedactedThinking | ToolUse]


Turn = SystemTurn | UserTurn | AssistantTurn
BlockT = TypeVar("BlockT", bound=Struct)


def chat_messages(system: str | list[Text] | None, turns: Sequence[Turn]) -> list[Message]:
    """Return a conversation as chat messages.

    Example: user [tool_result a, tool_result b, text] -> tool a, tool b, user.
    """
    messages: list[Message] = []
    for kind, run in groupby([SystemTurn(system or ""), *turns], type):
        blocks = [block for turn in run for block in _blocks(turn.content)]
        if kind is SystemTurn:
            messages += _system(blocks)
        elif kind is UserTurn:
            messages += _user(blocks)
        else:
            messages.append(_assistant(blocks))
    return messages


def _blocks(content: str | Sequence[Struct]) -> Sequence[Struct]:
    return [Text(content)] if isinstance(content, str) else content


def _system(blocks: Sequence[Struct]) -> list[Message]:
    text = _joined(_BILLING.sub("", block.text) for block in _of(blocks, Text))
    return [{"role": "system", "content": text}] if text else []


def _user(blocks: Sequence[Struct]) -> list[Message]:
    """Return the results first: templates want them right behind the calls they belong to."""
    results = [_result(block) for block in _of(blocks, ToolResult)]
    text = _joined(block.text for block in _of(blocks, Text))
    return results + ([{"role": "user", "content": text}] if text or not results else [])


def _result(block: ToolResult) -> Message:
    """Return a tool message; an error says so in words, for chat messages have no other way to."""
    text = _joined(part.text for part in _of(_blocks(block.content or ""), Text))
    if block.is_error and "error" not in text.lower():
        text = f"Error: {text}" if text else "Error"
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": text}


def _assistant(blocks: Sequence[Struct]) -> Message:
    # Nothing goes between these blocks: a reply's text that a client cut into several is still that text.
    message: Message = {"role": "assistant", "content": "".join(block.text for block in _of(blocks, Text)) or None}
    if reasoning := "".join(block.thinking for block in _of(blocks, Thinking)):
        message["reasoning_content"] = reasoning
    if calls := [_call(block) for block in _of(blocks, ToolUse)]:
        message["tool_calls"] = calls
    return message


def _call(block: ToolUse) -> dict[str, Any]:
    function = {"name": block.name, "arguments": msgspec.json.encode(block.input).decode()}
    return {"id": block.id, "type": "function", "function": function}


def _of(blocks: Iterable[Struct], kind: type[BlockT]) -> list[BlockT]:
    return [block for block in blocks if isinstance(block, kind)]


def _joined(texts: Iterable[str]) -> str:
    return BETWEEN_BLOCKS.join(text for text in texts if text)
