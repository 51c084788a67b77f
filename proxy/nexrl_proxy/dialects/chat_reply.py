"""OpenAI chat completions, the answer: the reply, the stream's chunks, and errors, as clients expect them.

Pure: what to answer was decided elsewhere.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from nexrl_proxy.dialects import Choice, TokenText, Usage
from nexrl_proxy.errors import ApiError

DONE = b"data: [DONE]\n\n"


class ChatReply:
    """Shapes everything that answers one request; its chunks share id, time and model."""

    def __init__(self, *, response: str, model: str, created: int) -> None:
        self._head = {"id": response, "created": created, "model": model}

    def whole(
        self, choices: Sequence[Choice], usage: Usage, tokens: Sequence[Sequence[TokenText]] | None
    ) -> dict[str, Any]:
        """Return the plain reply; `tokens` are shown where logprobs were asked for."""
        shown = [
            {
                "index": index,
                "message": choice.message,
                "logprobs": _logprobs(tokens[index]) if tokens is not None else None,
                "finish_reason": finish_reason(choice),
            }
            for index, choice in enumerate(choices)
        ]
        return {**self._head, "object": "chat.completion", "choices": shown, "usage": _usage(usage)}

    def first(self, index: int) -> bytes:
        """Return the chunk that opens a choice."""
        return self.delta(index, {"role": "assistant", "content": ""})

    def delta(self, index: int, delta: dict[str, Any], tokens: Sequence[TokenText] | None = None) -> bytes:
        logprobs = _logprobs(tokens) if tokens else None
        return self._chunk([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": None}])

    def last(self, index: int, choice: Choice) -> bytes:
        """Return the chunk that closes a choice."""
        finish = {"index": index, "delta": {}, "logprobs": None, "finish_reason": finish_reason(choice)}
        return self._chunk([finish])

    def end(self, usage: Usage | None) -> bytes:
        """Close the stream, with the chunk `stream_options.include_usage` asks for."""
        return (self._chunk([], usage=_usage(usage)) if usage else b"") + DONE

    def failed(self, error: ApiError) -> bytes:
        """Close the stream with an error; clients raise it where they read it."""
        return event(error_body(error))

    def _chunk(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        return event({**self._head, "object": "chat.completion.chunk", "choices": choices, **more})


def finish_reason(choice: Choice) -> str:
    """Return OpenAI's word for how a completion ended. An aborted one was cut short, as by a length limit."""
    if choice.finish_reason != "stop":
        return "length"
    return "tool_calls" if choice.called_tools else "stop"


def error_body(error: ApiError) -> dict[str, Any]:
    """Return an error in OpenAI's shape."""
    return {"error": {"message": str(error), "type": error.kind, "param": error.param, "code": error.code}}


def event(value: Any) -> bytes:
    """Return a server-sent event."""
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


def _logprobs(tokens: Sequence[TokenText]) -> dict[str, Any]:
    content = [
        {"token": token.text, "logprob": token.logprob, "bytes": list(token.raw), "top_logprobs": []}
        for token in tokens
    ]
    return {"content": content, "refusal": None}
