"""OpenAI text completions, the request: prompts of text or of token ids, decoded strictly.

What would change the result and is not supported is a 400 that names the parameter. The answer's shapes are
`completions_reply`.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from nexrl.records import Int32s
from nexrl_proxy.dialects import Ask, Opening
from nexrl_proxy.dialects.chat import StreamOptions
from nexrl_proxy.dialects.chat_reply import error_body
from nexrl_proxy.dialects.common import MOST_CHOICES, MOST_LOGPROBS, Sampled, param_of
from nexrl_proxy.dialects.completions_reply import CompletionsReply
from nexrl_proxy.errors import ApiError, unsupported

DEFAULT_MAX_TOKENS = 16
"""As on OpenAI's servers."""
MOST_PROMPTS = 2048
HIGHEST_TOKEN = 2**31 - 1


class CompletionsRequest(Sampled, forbid_unknown_fields=True, kw_only=True):
    """The body of `POST /v1/completions`."""

    prompt: str | list[str | int | list[int]]
    """Text, texts, token ids, or lists of token ids."""
    model: str = ""
    max_tokens: int | None = None
    logit_bias: dict[str, float] | None = None
    """By token id."""
    n: int | None = None
    echo: bool | None = None
    logprobs: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Refused where they ask for something.
    best_of: int | None = None
    suffix: str | None = None
    return_token_ids: bool | None = None
    # Accepted: it does not change what is sampled here.
    user: Any = None


class CompletionsAsk(Ask, frozen=True, kw_only=True):
    """What a request for completions asks for."""

    echo: bool = False
    """The text of a choice begins with its prompt."""


_decoder = msgspec.json.Decoder(CompletionsRequest)


class CompletionsDialect:
    """`POST /v1/completions`."""

    response_prefix = "cmpl-"
    call_prefix = "call_"

    def decode(self, body: bytes) -> Ask:
        return decode(body)

    def answer(self, ask: Ask, opening: Opening) -> CompletionsReply:
        echo = isinstance(ask, CompletionsAsk) and ask.echo
        return CompletionsReply(ask, opening, prefixes=[str(prompt) if echo else "" for prompt in ask.prompts])

    def error(self, error: ApiError) -> dict[str, Any]:
        return error_body(error)


def decode(body: bytes) -> CompletionsAsk:
    """Return what the request asks for; raises ApiError naming the parameter that is wrong or unsupported."""
    try:
        request = _decoder.decode(body)
    except msgspec.ValidationError as error:
        raise ApiError(f"the request is not a text completion: {error}", param=param_of(str(error))) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ApiError(f"the request is not JSON: {error}") from error
    _refuse_out_of_range(request)
    prompts = prompts_of(request.prompt)
    _refuse_unsupported(request, prompts)
    return CompletionsAsk(
        model=request.model,
        dialect="completions",
        prompts=prompts,
        sampling=request.sampling(logit_bias=request.logit_bias or None),
        max_tokens=DEFAULT_MAX_TOKENS if request.max_tokens is None else request.max_tokens,
        stops=request.stops,
        n=1 if request.n is None else request.n,
        seed=request.seed,
        stream=bool(request.stream),
        include_usage=bool(request.stream_options and request.stream_options.include_usage),
        logprobs=request.logprobs is not None,
        top_logprobs=request.logprobs or 0,
        echo=bool(request.echo),
    )


def prompts_of(given: str | Sequence[str | int | list[int]]) -> list[str | Int32s]:
    """Return a request's prompts. Raises ApiError where there is none, an empty one, or a mixture.

    Example: "a" -> ["a"];  [5, 6] -> [ids 5 6];  [[5], [6]] -> [ids 5, ids 6].
    """
    prompts: list[str | Int32s]
    if isinstance(given, str):
        prompts = [given]
    elif given and all(isinstance(item, int) for item in given):
        prompts = [_ids(given)]
    else:
        prompts = [item if isinstance(item, str) else _ids(item) for item in given if not isinstance(item, int)]
        if len(prompts) < len(given) or len({type(prompt) for prompt in prompts}) > 1:
            raise ApiError("prompt mixes texts and token ids: use one kind", param="prompt")
    if not all(prompts):
        place = next(index for index, prompt in enumerate(prompts) if not prompt)
        raise ApiError(f"prompt {place} is empty: give it a text or at least one token id", param="prompt")
    if not 1 <= len(prompts) <= MOST_PROMPTS:
        raise ApiError(f"number of prompts is {len(prompts)}: use 1 to {MOST_PROMPTS}", param="prompt")
    return prompts


def _ids(tokens: Sequence[Any]) -> Int32s:
    if tokens and not 0 <= min(tokens) <= max(tokens) <= HIGHEST_TOKEN:
        wrong = next(token for token in tokens if not 0 <= token <= HIGHEST_TOKEN)
        raise ApiError(f"prompt holds {wrong}, which is no token id: use 0 to {HIGHEST_TOKEN}", param="prompt")
    return Int32s(tokens)


def _refuse_unsupported(request: CompletionsRequest, prompts: Sequence[str | Int32s]) -> None:
    texts = all(isinstance(prompt, str) for prompt in prompts)
    refused = {
        "best_of": (request.best_of not in (None, request.n or 1), "leave it out, or set it to n"),
        "suffix": (bool(request.suffix), "leave it out, or write the model's fill-in-the-middle prompt yourself"),
        "return_token_ids": (bool(request.return_token_ids), "leave it out; NexRL records the ids of every call"),
        "echo": (bool(request.echo) and not (texts and request.logprobs is None),
                 "beside token ids or logprobs leave it out: a prompt's own logprobs are not computed"),
    }  # fmt: skip
    for param, (is_asked, remedy) in refused.items():
        if is_asked:
            raise unsupported(param, f"{param} is not supported: {remedy}")


def _refuse_out_of_range(request: CompletionsRequest) -> None:
    request.refuse_out_of_range(
        [
            ("n", request.n, 1, MOST_CHOICES),
            ("max_tokens", request.max_tokens, 1, 2**31),
            ("logprobs", request.logprobs, 0, MOST_LOGPROBS),
        ]
    )
