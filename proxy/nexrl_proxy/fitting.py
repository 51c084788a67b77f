"""How a chat template wants tool calls: found by trying, since templates neither say so nor agree.

Most take arguments as objects and content "". DeepSeek's write calls only where content is null and arguments are a
string; Mistral's refuse call ids that are not nine letters and digits. What a template is given never changes what the
client or the record sees.
"""

from collections.abc import Callable, Sequence
from hashlib import blake2b
from itertools import product
from typing import Any

import msgspec
from msgspec import Struct

from nexrl_proxy.messages import Message
from nexrl_proxy.template import REFUSALS

SHORT = 9
PROBE = "nexrl_probe"
_CALL = "call_0123456789abcdef01234567"


class Fit(Struct, frozen=True):
    """What is changed in messages before a template sees them."""

    null_content: bool = False
    """Content beside tool calls is null where it is empty."""
    string_arguments: bool = False
    short_ids: bool = False

    def __call__(self, messages: Sequence[Message]) -> list[Message]:
        """Return the messages as the template wants them."""
        if self == AS_THEY_ARE:
            return list(messages)
        return [self._fitted(message) for message in messages]

    def _fitted(self, message: Message) -> Message:
        fitted = dict(message)
        if calls := message.get("tool_calls"):
            fitted["tool_calls"] = [self._call(call) for call in calls]
            if self.null_content and not message["content"]:
                fitted["content"] = None
        if self.short_ids and message.get("tool_call_id"):
            fitted["tool_call_id"] = short(message["tool_call_id"])
        return fitted

    def _call(self, call: dict[str, Any]) -> dict[str, Any]:
        fitted = dict(call)
        arguments = call["function"]["arguments"]
        if self.string_arguments and not isinstance(arguments, str):
            fitted["function"] = call["function"] | {"arguments": msgspec.json.encode(arguments).decode()}
        if self.short_ids and call.get("id"):
            fitted["id"] = short(call["id"])
        return fitted


AS_THEY_ARE = Fit()


def fit_of(render: Callable[[list[Message]], str]) -> Fit:
    """Return the least change with which a template writes a tool call; none where it writes none in any way."""
    for short_ids, strings, null in product((False, True), repeat=3):
        fit = Fit(null_content=null, string_arguments=strings, short_ids=short_ids)
        try:
            if PROBE in render(fit(_probe())):
                return fit
        except REFUSALS:
            continue
    return AS_THEY_ARE


def short(name: str) -> str:
    """Return nine letters and digits that stand for a call id."""
    return blake2b(name.encode(), digest_size=8).hexdigest()[:SHORT]


def _probe() -> list[Message]:
    call = {"id": _CALL, "type": "function", "function": {"name": PROBE, "arguments": {"a": "b"}}}
    return [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": _CALL, "content": "t"},
        {"role": "user", "content": "v"},
    ]
