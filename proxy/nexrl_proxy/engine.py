"""Client of an engine's native `/generate`: token ids in; token ids, logprobs and weight versions out.

Speaks to the embedded engine and to SGLang, whose streams repeat everything so far (or, when so configured, send only
what is new). Failures are translated here, once: EngineLost while nothing is known to be sampled, ApiError for a
refusal. Retrying is `sampling`'s.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import aiohttp
import msgspec
from msgspec import Struct

from nexrl.errors import ServiceError
from nexrl.records import Float32s, Int32s
from nexrl_proxy.errors import ApiError

BAD_REQUEST = 400
SERVER_ERROR = 500
CONNECT_TIMEOUT_S = 10.0
ABORT_TIMEOUT_S = 10.0
EVENT = b"data:"
DONE = b"[DONE]"


class EngineLost(ServiceError):  # noqa: N818 - reads as what happened
    """The engine cannot be reached, or went away."""


class Completion(Struct, kw_only=True, eq=False):
    """What the engine sampled so far. Grows while it streams."""

    ids: Int32s = msgspec.field(default_factory=Int32s)
    logprobs: Float32s = msgspec.field(default_factory=Float32s)
    weight_versions: Int32s = msgspec.field(default_factory=Int32s)
    finish: str | None = None
    """`stop`, `length` or `abort`; None while it runs."""
    matched: Any = None
    """The token id or the string that stopped it."""
    message: str = ""
    """Why it was aborted."""
    lost: str = ""
    """Why the engine went away before the end; what it had sent stands."""
    cached_tokens: int = 0
    exact: bool = True
    """False where the engine's logprobs do not belong to its ids, one each."""


class _Meta(Struct):
    finish_reason: dict[str, Any] | None = None
    completion_tokens: int = 0
    cached_tokens: int | None = 0
    weight_version: Any = None
    weight_versions: list[dict[str, Any]] | None = None
    output_token_logprobs: list[list[Any]] | None = None


class _Generated(Struct):
    output_ids: list[int] = []
    meta_info: _Meta = msgspec.field(default_factory=_Meta)
    error: Any = None


_decoder = msgspec.json.Decoder(_Generated)


class EngineClient:
    """One engine. Every method may be used by many requests at a time."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self.url = url.rstrip("/")
        self._http = http

    async def generate(self, rid: str, ids: Sequence[int], params: dict[str, Any]) -> Completion:
        """Sample a completion. Raises ApiError where the engine refuses, EngineLost where it is not there."""
        completion = Completion()
        try:
            async with self._http.post(f"{self.url}/generate", data=_body(rid, ids, params, stream=False)) as reply:
                await _raise_for_refusal(reply, self.url)
                _update(completion, _decoded(await reply.read(), self.url))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _lost(self.url, error) from error
        return completion

    async def stream(self, rid: str, ids: Sequence[int], params: dict[str, Any]) -> AsyncIterator[Completion]:
        """Sample a completion and yield it, one growing object, whenever tokens arrived. Raises as `generate`."""
        completion = Completion()
        try:
            async with self._http.post(f"{self.url}/generate", data=_body(rid, ids, params, stream=True)) as reply:
                await _raise_for_refusal(reply, self.url)
                async for event in _events(reply):
                    _update(completion, _decoded(event, self.url))
                    yield completion
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise _lost(self.url, error) from error
        if completion.finish is None:
            raise _lost(self.url, "its stream ended before the completion did")

    async def abort(self, rid: str) -> None:
        """Ask the engine to end a request; one that is unknown or gone needs no ending."""
        timeout = aiohttp.ClientTimeout(total=ABORT_TIMEOUT_S)
        try:
            async with self._http.post(f"{self.url}/abort_request", json={"rid": rid}, timeout=timeout):
                pass
        except (aiohttp.ClientError, TimeoutError, OSError):
            return


def engine_session() -> aiohttp.ClientSession:
    """Return a connection pool fit for an engine: no limit on requests in flight, no time limit on sampling."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
        headers={"content-type": "application/json"},
    )


def _body(rid: str, ids: Sequence[int], params: dict[str, Any], *, stream: bool) -> bytes:
    request = {"rid": rid, "input_ids": list(ids), "sampling_params": params, "return_logprob": True, "stream": stream}
    return msgspec.json.encode(request)


async def _raise_for_refusal(reply: aiohttp.ClientResponse, url: str) -> None:
    if reply.status < BAD_REQUEST:
        return
    message = _message(await reply.read())
    if reply.status >= SERVER_ERROR:
        raise _lost(url, f"HTTP {reply.status}: {message}")
    raise refusal(message)


def refusal(message: str) -> ApiError:
    """Return the engine's refusal as the client's error; one about the length gets OpenAI's code for that."""
    words = message.lower()
    length = "context" in words and ("long" in words or "exceed" in words)
    code = "context_length_exceeded" if length else "engine_refused"
    return ApiError(f"the engine refuses the request: {message}", code=code)


async def _events(reply: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """Yield the data of server-sent events; aiohttp's own line reader has a limit that long completions exceed."""
    pending = b""
    async for piece in reply.content.iter_any():
        *lines, pending = (pending + piece).split(b"\n")
        for line in lines:
            data = line[len(EVENT) :].strip() if line.startswith(EVENT) else b""
            if data == DONE:
                return
            if data:
                yield data


def _decoded(data: bytes, url: str) -> _Generated:
    try:
        generated = _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise _lost(url, f"its answer cannot be read: {error}") from error
    if generated.error is not None:
        raise refusal(_message(data))
    return generated


def _update(completion: Completion, generated: _Generated) -> None:
    """Take over an event, be it everything so far or only what is new."""
    meta = generated.meta_info
    pairs = meta.output_token_logprobs or []
    whole = len(generated.output_ids) == meta.completion_tokens or not completion.ids
    ids = Int32s(generated.output_ids)
    new = ids[len(completion.ids) :] if whole else ids
    new_pairs = pairs[-len(new) :] if new else []
    completion.exact &= len(new_pairs) == len(new) and _match(new_pairs, new)
    completion.ids.extend(new)
    if completion.exact:
        completion.logprobs.extend(Float32s(pair[0] for pair in new_pairs))
    completion.weight_versions = versions_of(meta.weight_versions, meta.weight_version, len(completion.ids))
    completion.cached_tokens = meta.cached_tokens or 0
    if meta.finish_reason:
        completion.finish = meta.finish_reason.get("type") or "stop"
        completion.matched = meta.finish_reason.get("matched")
        completion.message = meta.finish_reason.get("message") or ""


def _match(pairs: Sequence[Sequence[Any]], ids: Sequence[int]) -> bool:
    return all(pair[0] is not None and pair[1] == token for pair, token in zip(pairs, ids, strict=True))


def versions_of(spans: list[dict[str, Any]] | None, version: Any, length: int) -> Int32s:
    """Return the weight version of each completion token, from the engine's spans or else its one version.

    A version that is no integer (SGLang starts with "default") counts as 0.
    Example: spans (4, 0..2), (5, 2..3), length 3 -> 4 4 5.
    """
    versions = Int32s([_integer(version)] * length)
    for span in spans or ():
        for index in range(max(0, int(span["start"])), min(length, int(span["end"]))):
            versions[index] = _integer(span["version"])
    return versions


def _integer(version: Any) -> int:
    try:
        return int(version)
    except (TypeError, ValueError):
        return 0


def _message(data: bytes) -> str:
    """Return the message of an error body, in any of the shapes engines use."""
    try:
        found = msgspec.json.decode(data)
    except msgspec.DecodeError:
        return data[:500].decode(errors="replace")
    while isinstance(found, dict):
        found = found.get("error") or found.get("message") or found.get("detail") or str(found)
    return str(found)


def _lost(url: str, reason: Any) -> EngineLost:
    text = reason if isinstance(reason, str) else f"{type(reason).__name__}: {reason}"
    return EngineLost(f"engine {url}: {text}; is it running, and does --engine name it?")


async def backoff(attempt: int) -> None:
    """Wait before the next try."""
    await asyncio.sleep(min(0.1 * 3**attempt, 2.0))
