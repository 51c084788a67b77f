"""How a completion goes on that an engine cut short: asked for again behind its own tokens, so that it stays one reply.

The next token's distribution depends on the tokens before it alone, so tokens of two tries, or of two engines, are as
exact together as those of one. Where more than them counts (a grammar, penalties, a seed, stop strings), what was
sampled stands and the reply ends where it was cut. Pure; trying is `sampling`'s.
"""

import math

import msgspec
from msgspec import structs

from nexrl.records import Float32s, Int32s
from nexrl_proxy.engines import Completion, Work

OF_THE_TOKENS_BEFORE = {
    *("temperature", "top_p", "top_k", "min_p"),
    *("max_new_tokens", "min_new_tokens", "stop_token_ids", "ignore_eos"),
}
"""Sampling parameters under which a token depends on nothing but the tokens before it."""


def was_cut(completion: Completion) -> bool:
    """Whether it ended otherwise than the model or a limit would have it."""
    return bool(completion.lost) or completion.finish == "abort"


def settled(completion: Completion, work: Work) -> Completion:
    """Return a completion as the model ended it: the word for that may be missing where it was cut.

    SGLang says `length` where the last token that was allowed is the one that ends the turn.
    """
    if not was_cut(completion) and completion.finish != "length":
        return completion
    if completion.ids and completion.ids[-1] in work.params.get("stop_token_ids", ()):
        return structs.replace(completion, finish="stop", matched=completion.ids[-1], lost="", message="")
    if len(completion.ids) >= work.params.get("max_new_tokens", math.inf):
        return structs.replace(completion, finish="length", lost="", message="")
    return completion


def resumable(completion: Completion, work: Work) -> bool:
    """Whether what follows its tokens can be sampled as if nothing had happened."""
    return completion.exact and bool(completion.ids) and OF_THE_TOKENS_BEFORE.issuperset(work.params)


def rest_of(work: Work, completion: Completion) -> Work:
    """Return what is asked for behind the tokens of a completion.

    Example: prompt 1 2, at most 5 tokens, and 7 8 were sampled -> prompt 1 2 7 8, at most 3.
    """
    if not completion.ids:
        return work
    params = dict(work.params)
    if "max_new_tokens" in params:
        params["max_new_tokens"] -= len(completion.ids)
    if "min_new_tokens" in params:
        params["min_new_tokens"] = max(0, params["min_new_tokens"] - len(completion.ids))
    written = work.written and b"%b,%b" % (work.written, msgspec.json.encode(completion.ids.tolist())[1:-1])
    return structs.replace(work, ids=Int32s(work.ids + completion.ids), written=written, params=params)


def joined(first: Completion, rest: Completion) -> Completion:
    """Return one completion: `rest` was sampled behind the tokens of `first`, and says how it ended."""
    if not first.ids:
        return rest
    tops = None if first.top_logprobs is None else first.top_logprobs + (rest.top_logprobs or [])
    return structs.replace(
        rest,
        ids=Int32s(first.ids + rest.ids),
        logprobs=Float32s(first.logprobs + rest.logprobs),
        weight_versions=Int32s(first.weight_versions + rest.weight_versions),
        top_logprobs=tops,
        prompt_tokens=first.prompt_tokens,
        cached_tokens=first.cached_tokens,
        completion_tokens=len(first.ids) + len(rest.ids),
        exact=first.exact and rest.exact,
    )
