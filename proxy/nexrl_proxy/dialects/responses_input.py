"""OpenAI Responses, the input: items to chat messages.

What a reply consists of (reasoning, text, calls) comes back as separate items and is one assistant message again, in
whatever order the items come. Ids say which belong together; without them, neighbours do, until a second text.
"""

from collections.abc import Sequence
from typing import Any

from msgspec import Struct

from nexrl_proxy.dialects.responses_items import reply_of, untold
from nexrl_proxy.dialects.responses_tools import chat_name
from nexrl_proxy.errors import ApiError, unsupported
from nexrl_proxy.messages import Message

TEXT_PARTS = ("input_text", "output_text", "text", "summary_text", "reasoning_text")


class Part(Struct):
    """A piece of content."""

    type: str | None = None
    text: str | None = None
    refusal: str | None = None


Content = str | list[Part] | None


class Item(Struct):
    """What any item may hold of what matters here; clients send more."""

    type: str | None = None
    """Messages and references may leave it out."""
    id: str | None = None
    role: str | None = None
    content: Content = None
    summary: Content = None
    call_id: str | None = None
    name: str | None = None
    namespace: str | None = None
    arguments: str | dict[str, Any] | None = None
    input: str | None = None
    output: Content = None


class Told(Struct, frozen=True):
    """The input as chat messages."""

    messages: list[Message]
    references: list[tuple[int, str]] = []
    """Items that stand there by their ids alone: to which message they belong, and the id."""


def told_of(items: str | Sequence[Item]) -> Told:
    """Return the input as chat messages; raises ApiError naming the item that cannot be one."""
    if isinstance(items, str):
        return Told([{"role": "user", "content": items}] if items else [])
    transcript = Transcript()
    for index, item in enumerate(items):
        transcript.add(item, f"input[{index}]")
    return Told(transcript.messages, transcript.references)


class Turn(Struct):
    """An assistant message that items are still added to."""

    message: Message
    reply: str | None
    """Which reply it is, where an item's id told."""


class Transcript:
    """Chat messages, told item by item."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.references: list[tuple[int, str]] = []
        self._turn: Turn | None = None
        self._turns: dict[str, Turn] = {}

    def add(self, item: Item, where: str) -> None:
        match item.type or ("message" if item.role else "item_reference"):
            case "message":
                self._message(item, where)
            case "reasoning":
                self._reasoning(item, where)
            case "function_call" | "custom_tool_call":
                self._call(item, where)
            case "function_call_output" | "custom_tool_call_output":
                self._output(item, where)
            case "item_reference":
                self._reference(item, where)
            case kind:
                told = f"is of type {kind!r}, which cannot be shown to the model: leave it out"
                raise unsupported("input", f"{where} {told}")

    def _reference(self, item: Item, where: str) -> None:
        if reply_of(item.id) is None:
            told = f"is a reference to {item.id!r}, which no response here had: send the item itself"
            raise unsupported("input", f"{where} {told}")
        message = self._assistant(item, None)
        place = next(k for k in range(len(self.messages) - 1, -1, -1) if self.messages[k] is message)
        self.references.append((place, item.id or ""))

    def _message(self, item: Item, where: str) -> None:
        text = text_of(item.content, where, "content")
        match item.role:
            case "assistant":
                message = self._assistant(item, "content")
                message["content"] = (message["content"] or "") + text
            case "user" | "system" | "developer" as role:
                self._other({"role": role, "content": text})
            case role:
                choices = "user, assistant, system or developer"
                raise ApiError(f"{where}.role is {role!r}: use {choices}", param="input")

    def _reasoning(self, item: Item, where: str) -> None:
        text = text_of(item.content, where, "content") or text_of(item.summary, where, "summary")
        if text:
            message = self._assistant(item, "reasoning_content")
            message["reasoning_content"] = message.get("reasoning_content", "") + text

    def _call(self, item: Item, where: str) -> None:
        call, name = _given(item.call_id, where, "call_id"), _given(item.name, where, "name")
        arguments = item.arguments or "{}"
        if item.type == "custom_tool_call":
            call, arguments = untold(call, item.input or "")
        function = {"name": chat_name(name, item.namespace), "arguments": arguments}
        message = self._assistant(item, None)
        message.setdefault("tool_calls", []).append({"id": call, "type": "function", "function": function})

    def _output(self, item: Item, where: str) -> None:
        call = _given(item.call_id, where, "call_id")
        if item.type == "custom_tool_call_output":
            call, _ = untold(call, "")
        text = text_of(item.output, where, "output")
        self._other({"role": "tool", "tool_call_id": call, "content": text})

    def _other(self, message: Message) -> None:
        self.messages.append(message)
        self._turn = None

    def _assistant(self, item: Item, field: str | None) -> Message:
        """Return the message an item belongs to; a field that only one item can fill opens a new one."""
        reply = reply_of(item.id)
        if reply and (known := self._turns.get(reply)):
            return known.message
        turn = self._turn
        if turn is None or (reply and turn.reply) or (field and turn.message.get(field) is not None):
            turn = self._turn = Turn({"role": "assistant", "content": None}, None)
            self.messages.append(turn.message)
        if reply:
            turn.reply = reply
            self._turns[reply] = turn
        return turn.message


def text_of(content: Content, where: str, field: str) -> str:
    """Return a string, or the text of a list of parts; raises ApiError naming the part that is not text."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join([_part(part, where, field, place) for place, part in enumerate(content)])


def _part(part: Part, where: str, field: str, place: int) -> str:
    text = part.refusal if part.type == "refusal" else part.text
    if text is None or part.type not in (*TEXT_PARTS, "refusal"):
        told = f"is of type {part.type!r}: only text parts are supported"
        raise unsupported("input", f"{where}.{field}[{place}] {told}")
    return text


def _given(value: str | None, where: str, field: str) -> str:
    if not value:
        raise ApiError(f"{where}.{field} is missing", param="input")
    return value
