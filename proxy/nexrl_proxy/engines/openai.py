"""Any OpenAI-compatible upstream: `/v1/chat/completions`, plain and streamed. It returns text, so nothing is exact.

What the client asked goes through as it came, with the upstream's own model name and key, and with the sampling
parameters that are in force. What comes back is told as deltas; usage is the upstream's own count.
"""

from typing import Any

import msgspec

from nexrl_proxy.engines import Completion, Hearer, Work
from nexrl_proxy.engines.asking import CutError, Exchanges, answers, bodies, ended, told
from nexrl_proxy.engines.failures import SERVER_ERROR, event_failure, upstream_failure
from nexrl_proxy.engines.http import Upstream
from nexrl_proxy.engines.spoken import Speech, decode
from nexrl_proxy.errors import ApiError, unsupported

NAMES = {
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "frequency_penalty": "frequency_penalty",
    "presence_penalty": "presence_penalty",
    "repetition_penalty": "repetition_penalty",
    "min_new_tokens": "min_tokens",
    "ignore_eos": "ignore_eos",
    "sampling_seed": "seed",
}
"""Parameters that override the client's; the others stand in its request already."""
LIMITS = ("max_completion_tokens", "max_tokens")
OURS = ("n", "stream", "stream_options", "logprobs", "top_logprobs", "chat_template_kwargs")


class OpenAIEngine:
    """One OpenAI-compatible upstream; `model` replaces the name that the client used."""

    renders = True

    def __init__(self, upstream: Upstream, *, model: str | None = None) -> None:
        self.url = upstream.url
        self._upstream = upstream
        self._exchanges = Exchanges(upstream)
        self._model = model

    def check(self, work: Work) -> None:
        """Raise ApiError for token prompts and logprobs, which an upstream that returns text has no place for."""
        if work.request is None:
            raise ApiError("this upstream takes chat messages only: use /v1/chat/completions", param="prompt")
        if work.top_logprobs or _request(work).get("logprobs"):
            raise unsupported("logprobs", "logprobs are not supported with an OpenAI upstream: leave them out")

    async def complete(self, work: Work, hearer: Hearer) -> None:
        completion = Completion(exact=False)
        speech = Speech(completion)

        def hear(body: bytes) -> None:
            said = decode(body)
            if said.error is not None:
                raise event_failure(self.url, body, began=bool(completion.spoken))
            speech.grow(said)
            hearer.grown(completion)

        try:
            with told(self.url):
                async with self._exchanges.post(work.rid, "/chat/completions", body_of(work, self._model)) as reply:
                    await bodies(reply, self.url, hearer, hear, stream=work.stream, failed=upstream_failure)
            ended(self.url, completion)
        except CutError as cut:
            completion.finish, completion.message = "abort", str(cut)
            hearer.grown(completion)

    async def abort(self, rid: str) -> None:
        self._exchanges.cut(rid)

    async def healthy(self) -> bool:
        """Whether it answers at all: not every upstream lists its models."""
        return await answers(self._upstream, "/models", below=SERVER_ERROR)

    def adopt(self, weight_version: int) -> None:
        del weight_version  # nothing it returns is trained

    async def close(self) -> None:
        await self._upstream.close()


def body_of(work: Work, model: str | None) -> bytes:
    """Return the request: the client's, for one choice, with the parameters that are in force."""
    given = _request(work)
    request = {name: value for name, value in given.items() if name not in OURS}
    request |= {NAMES[name]: value for name, value in work.params.items() if name in NAMES}
    if (limit := work.params.get("max_new_tokens")) is not None:
        request[next((name for name in LIMITS if name in given), LIMITS[0])] = limit
    if model is not None:
        request["model"] = model
    request["stream"] = work.stream
    if work.stream:
        request["stream_options"] = {"include_usage": True}
    return msgspec.json.encode(request)


def _request(work: Work) -> dict[str, Any]:
    return msgspec.json.decode(work.request or b"{}", type=dict[str, Any])
