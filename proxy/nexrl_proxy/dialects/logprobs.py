"""Sampled tokens with their logprobs in OpenAI's JSON, which chat completions and Responses share."""

from collections.abc import Sequence

import msgspec
from msgspec import Raw

from nexrl_proxy.dialects import TokenText


def listed(tokens: Sequence[TokenText]) -> Raw:
    """Return the list of tokens; put together from what each token's JSON always is, as replies have hundreds."""
    if len(tokens) == 1 and not tokens[0].top:
        [token] = tokens
        return Raw(b"[%b%b%b]" % (token.shown.head, msgspec.json.encode(token.logprob), token.shown.alone))
    logprobs = msgspec.json.encode([token.logprob for token in tokens])[1:-1].split(b",")
    if any(token.top for token in tokens):
        return Raw(b"[%b]" % b",".join(map(_with_alternatives, tokens, logprobs)))
    shown = [(token.shown, logprob) for token, logprob in zip(tokens, logprobs, strict=False)]
    return Raw(b"[%b]" % b",".join([token.head + logprob + token.alone for token, logprob in shown]))


def _with_alternatives(token: TokenText, logprob: bytes) -> bytes:
    shown, top = token.shown, b",".join(map(_alternative, token.top))
    return b'%b%b%b,"top_logprobs":[%b]}' % (shown.head, logprob, shown.tail, top)


def _alternative(token: TokenText) -> bytes:
    return b"%b%b%b}" % (token.shown.head, msgspec.json.encode(token.logprob), token.shown.tail)
