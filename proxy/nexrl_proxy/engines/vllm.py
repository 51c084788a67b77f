"""vLLM: `/v1/completions` with token ids as the prompt and `return_token_ids`.

vLLM fills parameters that a request leaves out from the model's own generation_config.json, so all are sent. It knows
no abort but a closed connection; a plain request that is aborted loses what it had sampled. Its logprobs are exact only
where `are_exact` says so, and it does not tell which weights it holds: whoever publishes them does.
"""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from nexrl.records import Float32s
from nexrl_proxy.engines import Completion, Hearer, Work
from nexrl_proxy.engines.asking import CutError, Exchanges, answers, bodies, ended, told
from nexrl_proxy.engines.failures import MULTIPLE_CHOICES, event_failure, misconfigured
from nexrl_proxy.engines.http import Upstream
from nexrl_proxy.engines.sglang import EMPTY
from nexrl_proxy.errors import ApiError, unsupported

NEUTRAL: dict[str, Any] = {
    "temperature": 1.0,
    "top_p": 1.0,
    "top_k": -1,
    "min_p": 0.0,
    "frequency_penalty": 0.0,
    "presence_penalty": 0.0,
    "repetition_penalty": 1.0,
}
NAMES = {"max_new_tokens": "max_tokens", "sampling_seed": "seed", "min_new_tokens": "min_tokens"}
SAME = (*NEUTRAL, "stop", "stop_token_ids", "logit_bias", "ignore_eos")
GRAMMARS = {"json_schema": "json", "regex": "regex", "structural_tag": "structural_tag"}
_RESTRICT = ("top_p", "top_k", "min_p")
_CHANGE = ("frequency_penalty", "presence_penalty", "repetition_penalty")
TOKEN = "token_id:"
"""How vLLM spells a token id where a token's text would stand."""


class Logprobs(Struct):
    token_logprobs: list[float | None] = []
    top_logprobs: Raw = Raw(b"null")
    """Sent always, and read where it was asked for."""


class Choice(Struct):
    token_ids: list[int] | None = None
    logprobs: Logprobs | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None


class PromptDetails(Struct):
    cached_tokens: int | None = 0


class Usage(Struct):
    prompt_tokens: int = 0
    prompt_tokens_details: PromptDetails | None = None


class Completed(Struct):
    """A plain reply, or one event of a stream."""

    choices: list[Choice] = []
    usage: Usage | None = None
    error: Any = None


_decode = msgspec.json.Decoder(Completed).decode
_rows = msgspec.json.Decoder(list[dict[str, float] | None] | None).decode


class VllmEngine:
    """One vLLM server; `processed_logprobs`: it was started with `--logprobs-mode processed_logprobs`."""

    renders = False

    def __init__(self, upstream: Upstream, *, processed_logprobs: bool = False) -> None:
        self.url = upstream.url
        self._weight_version = 0
        self._upstream = upstream
        self._exchanges = Exchanges(upstream)
        self._processed = processed_logprobs

    def check(self, work: Work) -> None:
        """Raise ApiError for an empty prompt or a parameter that has no counterpart."""
        if not work.ids:
            raise ApiError(EMPTY, param="prompt")
        for name in work.params:
            if name not in NAMES and name not in SAME and name not in GRAMMARS:
                raise unsupported(name, f"{name} is not supported by vLLM behind this proxy: leave it out")

    async def complete(self, work: Work, hearer: Hearer) -> None:
        completion = Completion(exact=are_exact(work.params, processed=self._processed))
        version = self._weight_version

        def hear(body: bytes) -> None:
            completed = self._decoded(body, completion)
            grow(completion, completed, version=self._weight_version, top=work.top_logprobs)
            completion.exact &= version == self._weight_version
            hearer.grown(completion)

        try:
            with told(self.url):
                async with self._exchanges.post(work.rid, "/v1/completions", body_of(work)) as reply:
                    await bodies(reply, self.url, hearer, hear, stream=work.stream)
            ended(self.url, completion)
        except CutError as cut:
            completion.finish, completion.message = "abort", str(cut)
            hearer.grown(completion)

    async def abort(self, rid: str) -> None:
        self._exchanges.cut(rid)

    async def healthy(self) -> bool:
        return await answers(self._upstream, "/health", below=MULTIPLE_CHOICES)

    def adopt(self, weight_version: int) -> None:
        """Completions under way become inexact: nobody knows which of their tokens the old weights sampled."""
        self._weight_version = weight_version

    async def close(self) -> None:
        await self._upstream.close()

    def _decoded(self, data: bytes, completion: Completion) -> Completed:
        completed = _decode(data)
        if completed.error is not None:
            raise event_failure(self.url, data, began=bool(completion.ids))
        if any(choice.token_ids is None for choice in completed.choices):
            raise misconfigured(
                self.url, "it returns no token ids", "use vLLM 0.10.2 or newer, or --engine-kind openai"
            )
        return completed


def body_of(work: Work) -> bytes:
    """Return the request, with every parameter that has a default."""
    params = work.params
    request: dict[str, Any] = {
        **NEUTRAL,
        **{NAMES.get(name, name): value for name, value in params.items() if name not in GRAMMARS},
        "request_id": work.rid,
        "logprobs": work.top_logprobs,
        "return_token_ids": True,
        "return_tokens_as_token_ids": True,
        "stream": work.stream,
    }
    if grammar := {GRAMMARS[name]: params[name] for name in GRAMMARS if name in params}:
        request["structured_outputs"] = grammar
    if work.stream:
        request["stream_options"] = {"include_usage": True}
    return work.body("prompt", request)


def are_exact(params: dict[str, Any], *, processed: bool) -> bool:
    """Whether vLLM's logprobs are those of `log_softmax(logits / T)`, not renormalised after top_p, top_k or min_p.

    Raw ones, its default, are taken before temperature, penalties, biases, least lengths and grammars; processed ones
    after them, and after top_p, top_k and min_p as well, which renormalises them.
    Example: temperature 0.7 -> raw no, processed yes; top_p 0.9 -> raw yes, processed no.
    """
    changed = {name for name, neutral in NEUTRAL.items() if params.get(name, neutral) != neutral}
    if params.get("top_k") == 0:
        changed.discard("top_k")
    if params.get("temperature") == 0:
        changed.discard("temperature")  # greedy: both report the logprobs at temperature 1
    if processed:
        return changed.isdisjoint(_RESTRICT)
    barred = bool(params.get("min_new_tokens"))  # the tokens that would end the reply
    biased = barred or bool(params.get("logit_bias")) or any(name in params for name in GRAMMARS)
    return not biased and changed.isdisjoint(("temperature", *_CHANGE))


def grow(completion: Completion, completed: Completed, *, version: int, top: int) -> None:
    """Take over a reply, or an event, which holds only what is new; `top` alternatives were asked for."""
    for choice in completed.choices:
        ids = choice.token_ids or []
        completion.ids.extend(ids)
        completion.weight_versions.extend([version] * len(ids))
        logprobs = choice.logprobs or Logprobs()
        _take_logprobs(completion, logprobs, len(ids))
        if top:
            rows = [likeliest(row or {}, top) for row in _rows(logprobs.top_logprobs) or ()]
            completion.top_logprobs = (completion.top_logprobs or []) + rows
        if choice.finish_reason:
            known = choice.finish_reason in ("stop", "length")
            completion.finish = choice.finish_reason if known else "abort"
            completion.message = "" if known else choice.finish_reason
            completion.matched = choice.stop_reason
    if completed.usage:
        details = completed.usage.prompt_tokens_details or PromptDetails()
        completion.prompt_tokens = completed.usage.prompt_tokens
        completion.cached_tokens = details.cached_tokens or 0
    completion.completion_tokens = len(completion.ids)


def _take_logprobs(completion: Completion, found: Logprobs, count: int) -> None:
    completion.exact = completion.exact and len(found.token_logprobs) == count
    try:
        completion.logprobs.extend(Float32s(found.token_logprobs))  # pyright: ignore[reportArgumentType]
    except TypeError:  # null: the engine has no logprob for a token it sampled
        completion.exact = False


def likeliest(row: dict[str, float], top: int) -> list[tuple[float, int]]:
    """Return the `top` likeliest of what vLLM lists, which is those and the sampled one.

    Example: {"token_id:7": -2.5, "token_id:3": -0.5}, 1 -> [(-0.5, 3)].
    """
    return sorted(((value, int(name.removeprefix(TOKEN))) for name, value in row.items()), reverse=True)[:top]
