"""OpenAI chat completions as an upstream sends them, and how a completion's message grows by them. Pure.

Servers differ in what they call reasoning, in whether a tool call has an index, and in how they cut it up; a call is
told when it is whole, because only then is it known to be.
"""

from typing import Any

import msgspec
from msgspec import Struct

from nexrl_proxy.engines import Completion
from nexrl_proxy.ids import new_id
from nexrl_proxy.parsers import Content, Reasoning
from nexrl_proxy.reading import Called


class Function(Struct):
    name: str | None = None
    arguments: str | None = None


class Call(Struct):
    index: int | None = None
    id: str | None = None
    function: Function = msgspec.field(default_factory=Function)


class Message(Struct):
    """A message, or a delta of one."""

    content: str | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    tool_calls: list[Call] | None = None


class Choice(Struct):
    message: Message | None = None
    delta: Message | None = None
    finish_reason: str | None = None


class PromptDetails(Struct):
    cached_tokens: int | None = None


class Usage(Struct):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None


class Said(Struct):
    """A plain reply, or one event of a stream."""

    choices: list[Choice] | None = None
    usage: Usage | None = None
    error: Any = None


decode = msgspec.json.Decoder(Said).decode
"""Reads an answer; raises `msgspec.DecodeError`."""


class _Open:
    """A tool call that may still grow."""

    def __init__(self, place: int | None, name: str) -> None:
        self.place = place
        self.id = name
        self.name = ""
        self.arguments = ""


class Speech:
    """Tells a completion what an upstream says."""

    def __init__(self, completion: Completion) -> None:
        self._completion = completion
        self._call: _Open | None = None
        self._calls = 0

    def grow(self, said: Said) -> None:
        """Take over a reply, or an event, which holds only what is new."""
        for choice in (said.choices or [])[:1]:
            if message := choice.delta or choice.message:
                self._hear(message)
            if choice.finish_reason:
                self._end(choice.finish_reason)
        if said.usage:
            details = said.usage.prompt_tokens_details or PromptDetails()
            self._completion.prompt_tokens = said.usage.prompt_tokens or 0
            self._completion.completion_tokens = said.usage.completion_tokens or 0
            self._completion.cached_tokens = details.cached_tokens or 0

    def _end(self, reason: str) -> None:
        self._completion.finish, self._completion.message = finish_of(reason)
        if self._call:
            self._close(self._call)

    def _hear(self, message: Message) -> None:
        spoken = self._completion.spoken
        if reasoning := message.reasoning_content or message.reasoning:
            spoken.append(Reasoning(reasoning))
        if content := message.content or message.refusal:
            spoken.append(Content(content))
        for call in message.tool_calls or ():
            self._hear_call(call)

    def _hear_call(self, call: Call) -> None:
        if self._call is None or begins_another(call, self._call.place, self._call.id):
            if self._call:
                self._close(self._call)
            self._call = _Open(call.index, call.id or "")
        self._call.id = self._call.id or call.id or ""
        self._call.name += call.function.name or ""
        self._call.arguments += call.function.arguments or ""

    def _close(self, call: _Open) -> None:
        name = call.id or f"call_{new_id()}"
        self._completion.spoken.append(Called(self._calls, name, call.name, call.arguments or "{}"))
        self._calls += 1
        self._call = None


def begins_another(call: Call, place: int | None, name: str) -> bool:
    """Whether a piece of a tool call belongs to another one than the piece before.

    Example: index 1 after 0 does; a new id at the same index does; no index and a function's name does.
    """
    if call.index != place:
        return True
    if call.id and name and call.id != name:
        return True
    return call.index is None and bool(call.function.name)


def finish_of(reason: str) -> tuple[str, str]:
    """Return how a completion ended in this project's words, and what they cannot say."""
    if reason in ("stop", "tool_calls", "function_call"):
        return "stop", ""
    return ("length", "") if reason in ("length", "max_tokens") else ("stop", reason)
