"""SGLang, and the embedded engine, which speaks the same: `/generate` with token ids in, ids and logprobs out.

A field is sent only where it is used, because the embedded engine refuses those it does not know. What the answers
mean is `generated`.
"""

from typing import Any

import msgspec

from nexrl_proxy.engines import Completion, Hearer, Work
from nexrl_proxy.engines.asking import answers, bodies, ended, quiet, told
from nexrl_proxy.engines.failures import MULTIPLE_CHOICES, OK, event_failure, failure
from nexrl_proxy.engines.generated import Generated, Growth, Short, decode
from nexrl_proxy.engines.http import Upstream
from nexrl_proxy.errors import ApiError

ABORT_TIMEOUT_S = 10.0
EMPTY = "the prompt is empty: send at least one token"


class SglangEngine:
    """One SGLang server."""

    renders = False

    def __init__(self, upstream: Upstream) -> None:
        self.url = upstream.url
        self._upstream = upstream

    def check(self, work: Work) -> None:
        """Raise ApiError for an empty prompt; what SGLang takes of the parameters depends on how it was started."""
        if not work.ids:
            raise ApiError(EMPTY, param="prompt")

    async def complete(self, work: Work, hearer: Hearer) -> None:
        with told(self.url):
            await (self._streamed(work, hearer) if work.stream else self._whole(work, hearer))

    async def _whole(self, work: Work, hearer: Hearer) -> None:
        answer = await self._upstream.fetch("POST", "/generate", body_of(work))
        if answer.status != OK:
            raise failure(self.url, answer.status, answer.body)
        growth = Growth()
        growth.take(self._decoded(answer.body, growth.completion))
        ended(self.url, growth.completion)
        hearer.grown(growth.completion)

    async def _streamed(self, work: Work, hearer: Hearer) -> None:
        growth = Growth()

        def hear(body: bytes) -> None:
            growth.take(self._decoded(body, growth.completion))
            hearer.grown(growth.completion)

        async with self._upstream.stream("POST", "/generate", body_of(work)) as reply:
            await bodies(reply, self.url, hearer, hear, stream=True)
        ended(self.url, growth.completion)

    async def abort(self, rid: str) -> None:
        body = msgspec.json.encode({"rid": rid})
        await quiet(self._upstream.fetch("POST", "/abort_request", body, repeatable=True), within_s=ABORT_TIMEOUT_S)

    async def healthy(self) -> bool:
        return await answers(self._upstream, "/health", below=MULTIPLE_CHOICES)

    def adopt(self, weight_version: int) -> None:
        del weight_version  # every answer tells

    async def close(self) -> None:
        await self._upstream.close()

    def _decoded(self, data: bytes, completion: Completion) -> Generated | Short:
        generated = decode(data)
        if generated.error is not None:
            raise event_failure(self.url, data, began=bool(completion.ids))
        return generated


def body_of(work: Work) -> bytes:
    """Return the request."""
    request: dict[str, Any] = {
        "rid": work.rid,
        "sampling_params": work.params,
        "return_logprob": True,
        "stream": work.stream,
    }
    if work.top_logprobs:
        request["top_logprobs_num"] = work.top_logprobs
    return work.body("input_ids", request)
