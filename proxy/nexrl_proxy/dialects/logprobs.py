"""Sampled tokens with their logprobs in OpenAI's JSON, which chat completions and Responses share."""

from collections.abc import Sequence
from operator import attrgetter

import msgspec
from msgspec import Raw

from nexrl_proxy.dialects import TokenText

_alternatives, _logprob, _alone = attrgetter("top"), attrgetter("logprob"), attrgetter("shown.alone")


def listed(tokens: Sequence[TokenText]) -> Raw:
    """Return the list of tokens; put together from what each token's JSON always is, as replies have hundreds."""
    if len(tokens) == 1 and not tokens[0].top:
        [token] = tokens
        return Raw(b"[%b]" % (token.shown.alone % msgspec.json.encode(token.logprob)))
    logprobs = msgspec.json.encode(list(map(_logprob, tokens)))[1:-1].split(b",")
    if any(map(_alternatives, tokens)):
        return Raw(b"[%b]" % b",".join(map(_with_alternatives, tokens, logprobs)))
    return Raw(b"[%b]" % (b",".join(map(_alone, tokens)) % tuple(logprobs) if tokens else b""))


def _with_alternatives(token: TokenText, logprob: bytes) -> bytes:
    top = b",".join(map(_alternative, token.top))
    return b'%b,"top_logprobs":[%b]}' % (token.shown.row % logprob, top)


def _alternative(token: TokenText) -> bytes:
    return b"%b}" % (token.shown.row % msgspec.json.encode(token.logprob))
