"""OpenAI text completions, the answer: the reply and the stream's chunks, as clients expect them.

Pure: what to answer was decided elsewhere. Choices come prompt by prompt, `n` for each.
"""

import codecs
from collections.abc import Sequence
from typing import Any

from nexrl_proxy.dialects import Ask, Choice, Opening, TokenText, Usage
from nexrl_proxy.dialects.chat_reply import DONE, error_body, event, usage_of
from nexrl_proxy.errors import ApiError
from nexrl_proxy.parsers import Content
from nexrl_proxy.reading import Delta


class CompletionsReply:
    """Shapes everything that answers one request; while it streams, it knows how far each choice's text has come."""

    def __init__(self, ask: Ask, opening: Opening, prefixes: Sequence[str]) -> None:
        """`prefixes` hold what the text of each prompt's choices begins with."""
        self._prefixes = [prefix for prefix in prefixes for _ in range(ask.n)]
        self._include_usage = ask.include_usage
        self._head = {
            "id": opening.response,
            "object": "text_completion",
            "created": opening.created,
            "model": opening.model,
        }
        self._shown = [Logprobs() for _ in self._prefixes]

    def whole(self, choices: Sequence[Choice], usage: Usage) -> dict[str, Any]:
        """Return the plain reply."""
        shown = [
            {
                "index": index,
                "text": self._prefixes[index] + (choice.message.get("content") or ""),
                "logprobs": None if choice.tokens is None else self._shown[index].of(choice.tokens),
                "finish_reason": finish_reason(choice),
            }
            for index, choice in enumerate(choices)
        ]
        return {**self._head, "choices": shown, "usage": usage_of(usage)}

    def first(self) -> bytes:
        """Return the echoed prompts, where they were asked for."""
        return b"".join(self._piece(index, prefix) for index, prefix in enumerate(self._prefixes) if prefix)

    def delta(self, index: int, deltas: Sequence[Delta], tokens: Sequence[TokenText] | None) -> bytes:
        """Return one chunk for what arrived at once; none where nothing is to be shown."""
        text = "".join(delta.text for delta in deltas if isinstance(delta, Content))
        if not text and not tokens:
            return b""
        return self._piece(index, text, logprobs=self._shown[index].of(tokens) if tokens else None)

    def last(self, index: int, choice: Choice) -> bytes:
        """Return the chunk that closes a choice."""
        return self._piece(index, "", finish=finish_reason(choice))

    def end(self, usage: Usage) -> bytes:
        """Close the stream, with the chunk `stream_options.include_usage` asks for."""
        return (event({**self._head, "choices": [], "usage": usage_of(usage)}) if self._include_usage else b"") + DONE

    def failed(self, error: ApiError) -> bytes:
        """Close the stream with an error; clients raise it where they read it."""
        return event(error_body(error))

    def _piece(
        self, index: int, text: str, *, logprobs: dict[str, Any] | None = None, finish: str | None = None
    ) -> bytes:
        choice = {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish}
        return event({**self._head, "choices": [choice]})


class Logprobs:
    """A choice's tokens as OpenAI showed logprobs first: lists side by side."""

    def __init__(self) -> None:
        self._offset = 0
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def of(self, tokens: Sequence[TokenText]) -> dict[str, Any]:
        """Return the choice's next tokens; an offset counts the characters that stand before a token."""
        offsets: list[int] = []
        for token in tokens:
            offsets.append(self._offset)
            self._offset += len(self._utf8.decode(token.shown.raw))
        return {
            "tokens": [literal(token) for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": [_alternatives(token) for token in tokens],
            "text_offset": offsets,
        }


def literal(token: TokenText) -> str:
    r"""Return a token as text, or by its bytes where it is only part of a character: `bytes:\xe6\x97`."""
    try:
        return token.shown.raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in token.shown.raw)


def finish_reason(choice: Choice) -> str:
    """Return OpenAI's word for how a completion ended. An aborted one was cut short, as by a length limit."""
    return "stop" if choice.finish_reason == "stop" else "length"


def _alternatives(token: TokenText) -> dict[str, float]:
    """Return the likeliest tokens and the sampled one, which need not be among them."""
    shown = {literal(token): token.logprob}
    for other in token.top:
        shown.setdefault(literal(other), other.logprob)
    return shown
