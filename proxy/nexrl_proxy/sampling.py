"""From a plan to its recorded completions: sample each choice, record, then let it be answered.

A request runs in tasks of its own, so that a client who leaves loses nothing that was sampled: the engine is asked to
stop, and what it had is recorded. What is asked for was decided by `planning`; shapes of answers are the dialects'.
"""

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing

from msgspec import Struct

from nexrl.records import Call
from nexrl_proxy.attribution import UNATTRIBUTED
from nexrl_proxy.conversation import MOST_RESPONSES, Sessions, remember
from nexrl_proxy.dialects import Choice, TokenText, Usage
from nexrl_proxy.engines import Completion, Engine, EngineLost, Work
from nexrl_proxy.engines.pool import Pool
from nexrl_proxy.errors import unavailable
from nexrl_proxy.parsers import Parser
from nexrl_proxy.parsers.choose import Parsers
from nexrl_proxy.parsers.plain import PlainParser
from nexrl_proxy.planning import Plan, place_of
from nexrl_proxy.prompting import Prompt
from nexrl_proxy.reading import Delta, Reader, reasoning_tokens
from nexrl_proxy.recorder import Recorder
from nexrl_proxy.render import Renderer
from nexrl_proxy.restoring import held_of

TRIES = 4
"""With the pauses between them, an engine that is back within three seconds is not missed."""
LEFT = "the client left before the engine was asked"
ABORT_TRIES = 8
ABORT_AGAIN_S = 0.5
Emit = Callable[[int, list[Delta], list[TokenText] | None], Awaitable[None]]
"""Takes a choice's index, its next deltas, and the tokens they came from where logprobs were asked for."""


class Outcome(Struct, frozen=True):
    """One recorded completion."""

    choice: Choice
    usage: Usage


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
    emit: Emit | None

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
            params=params,
            stream=self.emit is not None,
            top_logprobs=plan.ask.top_logprobs,
            request=plan.request,
        )


class Reading(Struct, frozen=True):
    """What completions of token ids are read with."""

    renderer: Renderer
    parsers: Parsers


class Sampler:
    """Samples and records; its collaborators are shared by all requests."""

    def __init__(
        self,
        *,
        pool: Pool,
        reading: Reading | None,
        recorder: Recorder,
        sessions: Sessions,
    ) -> None:
        """Take `reading` None for engines that return text."""
        self.pool = pool
        self._reading = reading
        self._recorder = recorder
        self.sessions = sessions
        self.active: dict[str, set[asyncio.Task[list[Outcome]]]] = {}
        """Requests being sampled, by session."""
        self.counters: Counter[str] = Counter()
        self._stop_ids = sorted(reading.renderer.eos) if reading else []

    def start(self, plan: Plan, emit: Emit | None = None) -> tuple[Running, asyncio.Task[list[Outcome]]]:
        """Sample every choice of a plan, calling `emit` as tokens arrive; the task ends when all is recorded."""
        running = Running()
        task = asyncio.create_task(self._all(plan, running, emit))
        session = plan.caller.session
        self.active.setdefault(session, set()).add(task)
        task.add_done_callback(lambda ended: self._ended(session, ended))
        return running, task

    async def settled(self, session: str) -> None:
        """Return once no request of a session is being sampled."""
        while tasks := self.active.get(session):
            await asyncio.wait(tasks)

    def forget(self, session: str) -> None:
        """Let go of a session that is over."""
        self.sessions.forget(session)
        self.pool.forget(session)

    async def _all(self, plan: Plan, running: Running, emit: Emit | None) -> list[Outcome]:
        if self._stop_ids:
            plan.params["stop_token_ids"] = self._stop_ids
        draws = [
            Draw(plan, prompt, limit, place * plan.ask.n + k, _seed(plan, k), running, emit)
            for place, (prompt, limit) in enumerate(zip(plan.prompts, plan.limits, strict=True))
            for k in range(plan.ask.n)
        ]
        if len(draws) == 1:
            done: Sequence[Outcome | BaseException] = [await self._one(draws[0])]
        else:
            done = await asyncio.gather(*map(self._one, draws), return_exceptions=True)
        for outcome in done:
            if isinstance(outcome, BaseException):
                raise outcome
        return [outcome for outcome in done if isinstance(outcome, Outcome)]

    async def _one(self, draw: Draw) -> Outcome:
        reader = self._reader(draw)
        started = time.time_ns()
        if draw.prompt.forced:
            await self._tell(draw, reader.begin(draw.prompt.forced), None)
        try:
            completion = await self._sampled(draw, reader)
        except Exception:
            self.counters["failed"] += 1
            raise
        await self._tell(draw, reader.finish(), None)
        self._record(draw, reader, completion, started)
        if completion.lost:
            self.counters["failed"] += 1
            raise unavailable(f"{completion.lost} ({len(completion.ids)} tokens were sampled)")
        return self._outcome(draw, reader, completion)

    def _reader(self, draw: Draw) -> Reader:
        ask = draw.plan.ask
        if self._reading is None:
            return Reader(None, PlainParser())
        parser: Parser = PlainParser()
        if draw.plan.talk is not None:
            prompt_end = self._reading.renderer.tail(draw.prompt.ids) if not draw.prompt.forced else ""
            with_tools = bool(ask.tools) and ask.may_call
            parser = self._reading.parsers.parser(with_tools=with_tools, prompt_end=prompt_end, tools=ask.tools)
        vocabulary = self._reading.renderer.vocabulary
        return Reader(vocabulary, parser, ask.stops, call_prefix=draw.plan.call_prefix)

    async def _sampled(self, draw: Draw, reader: Reader) -> Completion:
        """Sample one choice, telling it as it grows; try again only while nothing was produced."""
        lost = LEFT
        for attempt in range(TRIES):
            if attempt:
                self.counters["retried"] += 1
                await _backoff(attempt)
            if draw.running.aborted:
                break
            completion = await self._tried(draw, reader)
            produced = bool(completion.ids or completion.spoken)
            if produced or (completion.finish != "abort" and not completion.lost):
                return completion
            if draw.running.aborted:
                return completion
            lost = completion.lost or f"the engine aborted the request: {completion.message or 'no reason given'}"
        raise unavailable(lost)

    async def _tried(self, draw: Draw, reader: Reader) -> Completion:
        work = draw.work(f"nexrl-{secrets.token_hex(12)}")
        completion, seen = Completion(), 0
        try:
            async with self.pool.seat(draw.plan.caller.session) as engine:
                if draw.running.aborted:  # while it waited at the door
                    raise unavailable(LEFT)
                engine.check(work)
                draw.running.rids[work.rid] = engine
                async with aclosing(engine.complete(work)) as growing:
                    async for completion in growing:
                        await self._read(draw, reader, completion, seen)
                        seen = len(completion.ids) or len(completion.spoken)
        except EngineLost as error:
            completion.lost = str(error)
            completion.finish = "abort"
        finally:
            draw.running.rids.pop(work.rid, None)
        return completion

    async def _read(self, draw: Draw, reader: Reader, completion: Completion, seen: int) -> None:
        if completion.spoken:
            await self._tell(draw, reader.hear(completion.spoken[seen:]), None)
            return
        new = completion.ids[seen:]
        if draw.emit:
            tokens = self._texts(completion, seen) if draw.plan.ask.logprobs else None
            await self._tell(draw, reader.push(new), tokens)
        else:
            reader.push(new)

    async def _tell(self, draw: Draw, deltas: list[Delta], tokens: list[TokenText] | None) -> None:
        if draw.emit and (deltas or tokens):
            await draw.emit(draw.index, deltas, tokens)

    def _record(self, draw: Draw, reader: Reader, completion: Completion, started_ns: int) -> None:
        """Record a call, and let later requests continue it."""
        plan, prompt = draw.plan, draw.prompt
        params = draw.work("").params
        params.pop("stop_token_ids", None)
        call = Call(
            id=new_span_id(),
            session=plan.caller.session,
            parent=prompt.parent.id if prompt.parent else None,
            prompt_delta=prompt.delta,
            completion=completion.ids,
            logprobs=completion.logprobs,
            weight_versions=completion.weight_versions,
            temperature=params["temperature"],
            sampling=params,
            finish_reason=completion.finish or "abort",
            exact=completion.exact,
            drift=prompt.drift,
            agent=plan.caller.agent,
            model=plan.ask.model,
            dialect=plan.ask.dialect,
            response=plan.response,
            messages=_new_messages(draw),
            tools=None if prompt.parent else plan.ask.tools,
            template=plan.ask.template,
            instructed=plan.ask.instructed,
            reply=reader.message,
            malformed_tool_call=reader.malformed_tool_call,
            started_ns=started_ns,
            ended_ns=time.time_ns(),
        )
        self._recorder.record(call, plan.caller, prompt_tokens=len(prompt.ids) or completion.prompt_tokens)
        self._hold(draw, call)
        self._count(call)

    def _hold(self, draw: Draw, call: Call) -> None:
        plan = draw.plan
        session = self.sessions.get(call.session)
        if call.dialect == "responses" and plan.talk:
            said = [*plan.talk.said, call.reply] if plan.ask.store else None
            remember(session.responses, call.response, said, most=MOST_RESPONSES)
        if not call.exact or self._reading is None:
            return
        held = held_of(call, draw.prompt.parent, self._reading.renderer.eos)
        if talk := plan.talk:
            session.hold(talk.history.digests[-1], held, call.reply)
            if talk.body:
                session.bodies.remember(talk.history.setting, talk.body.rstrip()[:-1].rstrip(), place_of(talk))
        else:
            prompt = plan.ask.prompts[draw.index // plan.ask.n]
            said = self._reading.renderer.text(call.completion)
            session.hold_raw(held, prompt + said if isinstance(prompt, str) else None)
        self.sessions.grown(call.session, held.size)

    def _count(self, call: Call) -> None:
        self.counters["calls"] += 1
        self.counters["completion_tokens"] += len(call.completion)
        self.counters["inexact"] += not call.exact
        self.counters["malformed_tool_calls"] += call.malformed_tool_call
        self.counters["unattributed"] += call.session == UNATTRIBUTED
        if call.drift:
            self.counters[f"drift_{call.drift}"] += 1

    def _outcome(self, draw: Draw, reader: Reader, completion: Completion) -> Outcome:
        choice = Choice(
            message=reader.message,
            finish_reason=completion.finish or "abort",
            stop=completion.matched if isinstance(completion.matched, str) else None,
            tokens=self._texts(completion, 0) if draw.plan.ask.logprobs else None,
        )
        thought = "reasoning_content" in reader.message
        usage = Usage(
            prompt_tokens=len(draw.prompt.ids) or completion.prompt_tokens,
            completion_tokens=len(completion.ids) or completion.completion_tokens,
            cached_tokens=completion.cached_tokens,
            reasoning_tokens=reasoning_tokens(self._reader(draw), completion.ids) if thought else 0,
        )
        return Outcome(choice, usage)

    def _texts(self, completion: Completion, start: int) -> list[TokenText]:
        """Return tokens from `start` on as replies with logprobs show them."""
        assert self._reading  # an engine that returns text has refused logprobs
        shown = self._reading.renderer.vocabulary.shown
        pairs = zip(completion.ids[start:], completion.logprobs[start:], strict=False)
        if not completion.top_logprobs:
            return [TokenText(*shown(token), logprob) for token, logprob in pairs]
        tops = [
            [TokenText(*shown(token), logprob) for logprob, token in top] for top in completion.top_logprobs[start:]
        ]
        return [TokenText(*shown(token), logprob, top) for (token, logprob), top in zip(pairs, tops, strict=False)]

    def _ended(self, session: str, task: "asyncio.Task[list[Outcome]]") -> None:
        self.active[session].discard(task)
        if not self.active[session]:
            del self.active[session]
        if not task.cancelled():
            task.exception()  # the client may have gone, and nobody else would look at it


def new_span_id() -> str:
    """Return a random span id; OpenTelemetry forbids zero."""
    return f"{secrets.randbelow(2**64 - 1) + 1:016x}"


def _seed(plan: Plan, choice: int) -> int | None:
    return None if plan.ask.seed is None else plan.ask.seed + choice


def _new_messages(draw: Draw) -> list[dict[str, object]]:
    """Return the messages the parent call does not have."""
    talk, covered = draw.plan.talk, draw.prompt.covered
    if talk is not None:
        return talk.arrived[covered - talk.history.start :] if draw.prompt.parent else talk.arrived
    prompt = draw.plan.ask.prompts[draw.index // draw.plan.ask.n]
    return [{"role": "user", "content": prompt[covered:]}] if isinstance(prompt, str) else []


async def _backoff(attempt: int) -> None:
    """Wait before another try: 0.1 s, 0.5 s, 2.5 s."""
    await asyncio.sleep(0.1 * 5 ** (attempt - 1))
