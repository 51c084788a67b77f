"""One completion to be sampled, and the request it is part of while that runs."""

import asyncio
from typing import Protocol

from msgspec import Struct

from nexrl.records import Int32s
from nexrl_proxy.dialects import TokenText
from nexrl_proxy.engines import Engine, Work
from nexrl_proxy.messages import Message
from nexrl_proxy.planning import Plan
from nexrl_proxy.prompting import Prompt
from nexrl_proxy.reading import Delta

ABORT_TRIES = 8
ABORT_AGAIN_S = 0.5


class Listener(Protocol):
    """Who is told how completions grow."""

    behind: bool
    """It has not read what it was told, and `caught_up` returns when it has."""

    def emit(self, index: int, deltas: list[Delta], tokens: list[TokenText] | None) -> None:
        """Take a choice's next deltas, and the tokens they came from where logprobs were asked for."""
        ...

    def flush(self) -> None:
        """Send what was taken."""
        ...

    async def caught_up(self) -> None: ...


class Running:
    """A request whose completions are being sampled."""

    def __init__(self) -> None:
        self.rids: dict[str, Engine] = {}
        self.aborted = False

    async def abort(self) -> None:
        """Stop sampling; what was sampled is still recorded. Asked again while the engine has not heard of it yet."""
        self.aborted = True
        for _ in range(ABORT_TRIES):
            await asyncio.gather(*(engine.abort(rid) for rid, engine in list(self.rids.items())))
            if not self.rids:
                return
            await asyncio.sleep(ABORT_AGAIN_S)


class Draw(Struct, frozen=True, eq=False):
    """One completion to be sampled, among those of a request."""

    plan: Plan
    prompt: Prompt
    limit: int | None
    index: int
    """Its place among the choices."""
    seed: int | None
    running: Running
    listener: Listener | None

    @property
    def raw(self) -> str | Int32s:
        """The raw prompt, as the request gave it."""
        return self.plan.ask.prompts[self.index // self.plan.ask.n]

    @property
    def new_messages(self) -> list[Message]:
        """The messages the parent call does not have; a raw text is one."""
        talk, covered = self.plan.talk, self.prompt.covered
        if talk is not None:
            return talk.arrived[covered - talk.history.start :] if self.prompt.parent else talk.arrived
        return [{"role": "user", "content": self.raw[covered:]}] if isinstance(self.raw, str) else []

    def work(self, rid: str) -> Work:
        """Return what an engine is asked."""
        plan = self.plan
        params = dict(plan.params)
        if self.limit is not None:
            params["max_new_tokens"] = self.limit
        if self.seed is not None:
            params["sampling_seed"] = self.seed
        return Work(
            rid=rid,
            ids=self.prompt.ids,
            written=self.prompt.written,
            params=params,
            stream=self.listener is not None,
            top_logprobs=plan.ask.top_logprobs,
            request=plan.request,
        )


def draws_of(plan: Plan, running: Running, listener: Listener | None) -> list[Draw]:
    """Return what a plan samples: every prompt `n` times, each with a seed of its own."""
    seed = plan.ask.seed
    return [
        Draw(plan, prompt, limit, place * plan.ask.n + k, None if seed is None else seed + k, running, listener)
        for place, (prompt, limit) in enumerate(zip(plan.prompts, plan.limits, strict=True))
        for k in range(plan.ask.n)
    ]
