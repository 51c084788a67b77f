"""Engines behind the proxy: what they are asked, what they give, and the one protocol every kind speaks.

One file per kind (`sglang`, `vllm`, `openai`); `kinds` makes them by name, `pool` chooses among several. Retrying,
recording and reading the tokens are `sampling`'s.
"""

from typing import Any, Protocol

import msgspec
from msgspec import Struct

from nexrl.errors import ServiceError
from nexrl.records import Float32s, Int32s
from nexrl_proxy.reading import Delta


class EngineLost(ServiceError):  # noqa: N818 - reads as what happened
    """The engine cannot be reached, or went away; what the completion had grown to stands."""


class Work(Struct, frozen=True, kw_only=True, eq=False):
    """One completion to be sampled."""

    rid: str
    """Its name while it runs; a new try gets a new one."""
    ids: Int32s
    """int32 [P], the prompt; empty where the engine renders messages itself."""
    written: bytes = b""
    """The ids as JSON without the brackets, where that is known."""
    params: dict[str, Any]
    """Sampling parameters under SGLang's names; only those that were set."""
    stream: bool
    top_logprobs: int = 0
    """Alternatives wanted beside each sampled token."""
    request: bytes | None = None
    """The same as an OpenAI chat request, for engines that render messages themselves."""

    def body(self, name: str, fields: dict[str, Any]) -> bytes:
        """Return a request in JSON: the prompt's ids under `name`, and other fields, of which there is at least one."""
        ids = self.written or msgspec.json.encode(self.ids.tolist())[1:-1]
        return b'{"%b":[%b],%b' % (name.encode(), ids, msgspec.json.encode(fields)[1:])


class Completion(Struct, kw_only=True, eq=False):
    """What the engine sampled so far. Grows while it streams."""

    ids: Int32s = msgspec.field(default_factory=Int32s)
    logprobs: Float32s = msgspec.field(default_factory=Float32s)
    """float32 [tokens] where they are `exact`, one for each id."""
    weight_versions: Int32s = msgspec.field(default_factory=Int32s)
    top_logprobs: list[list[tuple[float, int]]] | None = None
    """The likeliest (logprob, id) in each token's place; None where they were not asked for."""
    spoken: list[Delta] = []
    """The message of an engine that returns text instead of ids; a tool call appears when it is whole."""
    finish: str | None = None
    """`stop`, `length` or `abort`; None while it runs."""
    matched: Any = None
    """The token id or the string that stopped it."""
    message: str = ""
    """Why it was aborted."""
    lost: str = ""
    """Why the engine went away before the end; what it had sent stands."""
    prompt_tokens: int = 0
    """As the engine counted."""
    cached_tokens: int = 0
    completion_tokens: int = 0
    """As the engine counted; the only count there is where it returns no ids."""
    exact: bool = True
    """False where the logprobs are not those of the distribution sampled from, one for each id."""


class Hearer(Protocol):
    """Who is told how a completion grows, in the turn of the event loop that read it from the engine."""

    def grown(self, completion: Completion) -> None:
        """Take note of what is new in it."""
        ...

    def keeps_up(self) -> bool:
        """Whether to go on, now that all that arrived at once was told; where not, `caught_up` says when."""
        ...

    async def caught_up(self) -> None:
        """Return when more can be told."""
        ...


class Engine(Protocol):
    """One upstream. Every method may be used by many requests at a time."""

    url: str
    renders: bool
    """True: it takes messages, and what it returns is never exact. False: it takes token ids."""

    def check(self, work: Work) -> None:
        """Raise ApiError for what this kind of engine cannot honour; does not ask the engine."""
        ...

    async def complete(self, work: Work, hearer: Hearer) -> None:
        """Tell of one growing completion whenever something arrived; once, at the end, where `work` is not streamed.

        Raises ApiError where the engine refuses, EngineLost where it is not there or went away.
        """
        ...

    async def abort(self, rid: str) -> None:
        """End a request; its completion then finishes as `abort`. One that is unknown has ended already."""
        ...

    async def healthy(self) -> bool:
        """Whether it answers; never raises."""
        ...

    def adopt(self, weight_version: int) -> None:
        """Its next tokens are sampled by these weights; of no use to engines that say so themselves."""
        ...

    async def close(self) -> None:
        """Close its idle connections."""
        ...
