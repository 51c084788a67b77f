"""From a request to its recorded completions: plan the prompt, sample each choice, record, then let it be answered.

A request runs in tasks of its own, so that a client who leaves loses nothing that was sampled: the engine is asked to
stop, and what it had is recorded. Shapes of requests and answers are the dialects'.
"""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from msgspec import Struct

from nexrl.records import Call, Int32s
from nexrl_proxy.attribution import UNATTRIBUTED, Caller
from nexrl_proxy.conversation import Held, History, Sessions, history_of
from nexrl_proxy.dialects import Ask, Choice, TokenText, Usage
from nexrl_proxy.engine import Completion, EngineClient, EngineLost, backoff
from nexrl_proxy.errors import too_long, unavailable
from nexrl_proxy.messages import normalised
from nexrl_proxy.parsers.choose import Parsers
from nexrl_proxy.prompting import Prompt, prompt_of
from nexrl_proxy.reading import Reader
from nexrl_proxy.recorder import Recorder
from nexrl_proxy.render import Renderer

TRIES = 4
Emit = Callable[[int, list[dict[str, Any]], list[TokenText]], None]
"""Takes a choice's index, its next deltas, and the tokens they came from."""
Outcomes = list[tuple[Choice, Usage]]


class Plan(Struct, frozen=True, kw_only=True, eq=False):
    """A request with its prompt: all that is decided before anything is sampled."""

    ask: Ask
    caller: Caller
    response: str
    """The id of the reply."""
    history: History
    prompt: Prompt
    params: dict[str, Any]
    """Sampling parameters as the engine takes them."""


class Running:
    """A request whose completions are being sampled."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine
        self.rids: set[str] = set()
        self.aborted = False

    async def abort(self) -> None:
        """Stop sampling; what was sampled is still recorded."""
        self.aborted = True
        await asyncio.gather(*(self._engine.abort(rid) for rid in self.rids))


class Sampler:
    """Samples and records; its collaborators are shared by all requests."""

    def __init__(
        self, *, engine: EngineClient, renderer: Renderer, parsers: Parsers, recorder: Recorder, sessions: Sessions
    ) -> None:
        self._engine = engine
        self._renderer = renderer
        self._parsers = parsers
        self._recorder = recorder
        self.sessions = sessions
        self.active: dict[str, set[asyncio.Task[Outcomes]]] = {}
        """Requests being sampled, by session."""
        self.counters: Counter[str] = Counter()

    def plan(self, ask: Ask, caller: Caller) -> Plan:
        """Return what will be asked of the engine; raises ApiError where the request cannot be answered."""
        history = history_of(normalised(ask.messages), ask.tools, ask.template)
        session = self.sessions.get(caller.session)
        prompt = prompt_of(history, session, self._renderer, tools=ask.tools, kwargs=ask.template)
        room = self._renderer.context - len(prompt.ids)
        if room < 1:
            raise too_long(len(prompt.ids), self._renderer.context)
        params = {**ask.sampling, "max_new_tokens": min(room, ask.max_tokens or room)}
        if self._renderer.eos:
            params["stop_token_ids"] = sorted(self._renderer.eos)
        return Plan(
            ask=ask,
            caller=caller,
            response=f"chatcmpl-{secrets.token_hex(12)}",
            history=history,
            prompt=prompt,
            params=params,
        )

    def start(self, plan: Plan, emit: Emit | None = None) -> tuple[Running, asyncio.Task[Outcomes]]:
        """Sample every choice of a plan, calling `emit` as tokens arrive; the task ends when all is recorded."""
        running = Running(self._engine)
        task = asyncio.create_task(self._all(plan, running, emit))
        self.active.setdefault(plan.caller.session, set()).add(task)
        task.add_done_callback(lambda ended: self._ended(plan.caller.session, ended))
        return running, task

    async def settled(self, session: str) -> None:
        """Return once no request of a session is being sampled."""
        while tasks := self.active.get(session):
            await asyncio.wait(tasks)

    def tokens(self, choice: Choice) -> list[TokenText]:
        """Return a choice's tokens as replies with logprobs show them."""
        return self._texts(choice.completion, choice.logprobs)

    async def _all(self, plan: Plan, running: Running, emit: Emit | None) -> Outcomes:
        choices = (self._one(plan, index, running, emit) for index in range(plan.ask.n))
        done = await asyncio.gather(*choices, return_exceptions=True)
        for outcome in done:
            if isinstance(outcome, BaseException):
                self.counters["failed"] += 1
                raise outcome
        return [outcome for outcome in done if not isinstance(outcome, BaseException)]

    async def _one(self, plan: Plan, index: int, running: Running, emit: Emit | None) -> tuple[Choice, Usage]:
        prompt_end = self._renderer.tail(plan.prompt.ids)
        parser = self._parsers.parser(with_tools=bool(plan.ask.tools), prompt_end=prompt_end)
        reader = Reader(self._renderer.vocabulary, parser, plan.ask.stops)
        started = time.time_ns()

        def read(completion: Completion, seen: int) -> None:
            new = completion.ids[seen:]
            deltas = reader.push(new)
            if emit:
                emit(index, deltas, self._texts(new, completion.logprobs[seen:]))

        completion = await self._sampled(plan, index, running, read, streamed=emit is not None)
        deltas = reader.finish()
        if emit and deltas:
            emit(index, deltas, [])
        self._record(plan, reader, completion, started)
        if completion.lost:
            raise unavailable(f"{completion.lost} ({len(completion.ids)} tokens were sampled)")
        return _outcome(plan, reader, completion)

    async def _sampled(
        self, plan: Plan, index: int, running: Running, read: Callable[[Completion, int], None], *, streamed: bool
    ) -> Completion:
        """Sample one choice, calling `read` as it grows; try again only while nothing was produced."""
        params = plan.params if plan.ask.seed is None else {**plan.params, "sampling_seed": plan.ask.seed + index}
        lost = ""
        for attempt in range(TRIES):
            completion, seen = Completion(), 0
            rid = f"nexrl-{secrets.token_hex(12)}"
            running.rids.add(rid)
            try:
                async for completion in self._pieces(rid, plan.prompt.ids, params, streamed=streamed):
                    read(completion, seen)
                    seen = len(completion.ids)
            except EngineLost as error:
                completion.lost = lost = str(error)
                completion.finish = "abort"
            finally:
                running.rids.discard(rid)
            if seen or completion.finish != "abort" or (running.aborted and not completion.lost):
                return completion
            if running.aborted:
                break
            lost = lost or f"engine {self._engine.url} aborted the request: {completion.message or 'no reason given'}"
            self.counters["retried"] += 1
            await backoff(attempt)
        raise unavailable(lost)

    async def _pieces(
        self, rid: str, ids: Int32s, params: dict[str, Any], *, streamed: bool
    ) -> AsyncIterator[Completion]:
        if streamed:
            async for completion in self._engine.stream(rid, ids, params):
                yield completion
        else:
            yield await self._engine.generate(rid, ids, params)

    def _record(self, plan: Plan, reader: Reader, completion: Completion, started_ns: int) -> None:
        """Record a call, and let later requests continue it."""
        parent = plan.prompt.parent
        call = Call(
            id=new_span_id(),
            session=plan.caller.session,
            parent=parent.id if parent else None,
            prompt_delta=plan.prompt.delta,
            completion=completion.ids,
            logprobs=completion.logprobs,
            weight_versions=completion.weight_versions,
            temperature=plan.ask.temperature,
            finish_reason=completion.finish or "abort",
            exact=completion.exact,
            drift=plan.prompt.drift,
            agent=plan.caller.agent,
            model=plan.ask.model,
            dialect=plan.ask.dialect,
            response=plan.response,
            messages=plan.ask.messages[plan.prompt.covered :],
            tools=None if parent else plan.ask.tools,
            reply=reader.message,
            malformed_tool_call=reader.malformed_tool_call,
            started_ns=started_ns,
            ended_ns=time.time_ns(),
        )
        self._recorder.record(call, plan.caller, prompt_tokens=len(plan.prompt.ids))
        self.sessions.get(plan.caller.session).hold(
            plan.history,
            Held(
                id=call.id,
                parent=parent,
                prompt_delta=call.prompt_delta,
                completion=call.completion,
                reply=call.reply,
                ended=completion.finish == "stop" and not isinstance(completion.matched, str),
            ),
        )
        self.counters["calls"] += 1
        self.counters["inexact"] += not completion.exact
        self.counters["malformed_tool_calls"] += call.malformed_tool_call
        self.counters["unattributed"] += plan.caller.session == UNATTRIBUTED
        if call.drift:
            self.counters[f"drift_{call.drift}"] += 1

    def _texts(self, ids: Sequence[int], logprobs: Sequence[float]) -> list[TokenText]:
        vocabulary = self._renderer.vocabulary
        texts = [vocabulary.literal(token) for token in ids]
        return [TokenText(text, text.encode(), logprob) for text, logprob in zip(texts, logprobs, strict=False)]

    def _ended(self, session: str, task: "asyncio.Task[Outcomes]") -> None:
        self.active[session].discard(task)
        if not self.active[session]:
            del self.active[session]
        if not task.cancelled():
            task.exception()  # the client may have gone, and nobody else would look at it


def new_span_id() -> str:
    """Return a random span id; OpenTelemetry forbids zero."""
    return f"{secrets.randbelow(2**64 - 1) + 1:016x}"


def _outcome(plan: Plan, reader: Reader, completion: Completion) -> tuple[Choice, Usage]:
    choice = Choice(
        message=reader.message,
        finish_reason=completion.finish or "abort",
        completion=completion.ids,
        logprobs=completion.logprobs,
        called_tools=reader.called_tools,
    )
    usage = Usage(
        prompt_tokens=len(plan.prompt.ids),
        completion_tokens=len(completion.ids),
        cached_tokens=completion.cached_tokens,
    )
    return choice, usage
