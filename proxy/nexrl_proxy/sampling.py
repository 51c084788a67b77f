"""From a plan to its recorded completions: sample each choice, record, then let it be answered.

A request runs in tasks of its own, so that a client who leaves loses nothing that was sampled: the engine is asked to
stop, and what it had is recorded. What is asked for was decided by `planning`; shapes of answers are the dialects'.
"""

import asyncio
import time
from collections.abc import Sequence

from msgspec import Struct

from nexrl_proxy.conversation import Sessions
from nexrl_proxy.dialects import Choice, Usage
from nexrl_proxy.draw import Draw, Listener, Running, draws_of
from nexrl_proxy.engines import Completion, EngineLost, Work
from nexrl_proxy.engines.pool import Pool
from nexrl_proxy.errors import ApiError, unavailable
from nexrl_proxy.hearing import Hearing, tell, texts_of
from nexrl_proxy.ids import new_id
from nexrl_proxy.parsers import Parser
from nexrl_proxy.parsers.choose import Parsers
from nexrl_proxy.parsers.plain import PlainParser
from nexrl_proxy.planning import Plan
from nexrl_proxy.reading import Reader, reasoning_tokens
from nexrl_proxy.recorder import Recorder
from nexrl_proxy.recording import Recording
from nexrl_proxy.render import Renderer
from nexrl_proxy.resuming import joined, rest_of, resumable, settled, was_cut

TRIES = 4
"""With the pauses between them, an engine that is back within three seconds is not missed."""
MOST_CUTS = 64
"""More often an engine is not cut by updates or deaths of its neighbours: something is wrong with the request."""
LEFT = "the client left before the engine was asked"


class Outcome(Struct, frozen=True):
    """One recorded completion."""

    choice: Choice
    usage: Usage


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
        self.sessions = sessions
        renderer = reading.renderer if reading else None
        self._recording = Recording(recorder=recorder, sessions=sessions, renderer=renderer)
        self.active: dict[str, set[asyncio.Task[list[Outcome]]]] = {}
        """Requests being sampled, by session."""
        self.counters = self._recording.counters
        self._vocabulary = reading.renderer.vocabulary if reading else None
        self._stop_ids = sorted(reading.renderer.eos) if reading else []

    def start(self, plan: Plan, listener: Listener | None = None) -> tuple[Running, asyncio.Task[list[Outcome]]]:
        """Sample every choice of a plan, telling `listener` as tokens arrive; the task ends when all is recorded."""
        running = Running()
        task = asyncio.create_task(self._all(plan, running, listener))
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

    async def _all(self, plan: Plan, running: Running, listener: Listener | None) -> list[Outcome]:
        if self._stop_ids and not plan.params.get("ignore_eos"):
            plan.params["stop_token_ids"] = self._stop_ids
        draws = draws_of(plan, running, listener)
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
            tell(draw, reader.begin(draw.prompt.forced), None)
        try:
            completion = await self._sampled(draw, reader)
        except Exception:
            self.counters["failed"] += 1
            raise
        tell(draw, reader.finish(), None)
        self._recording.record(draw, reader, completion, started)
        outcome = self._outcome(draw, reader, completion)
        self._recording.store(draw, outcome.choice, outcome.usage)
        if completion.lost:
            self.counters["failed"] += 1
            raise unavailable(f"{completion.lost} ({len(completion.ids)} tokens were sampled)")
        return outcome

    def _reader(self, draw: Draw) -> Reader:
        ask = draw.plan.ask
        if self._reading is None:
            return Reader(None, PlainParser())
        parser: Parser = PlainParser()
        if draw.plan.talk is not None:
            prompt_end = self._reading.renderer.tail(draw.prompt.ids, end=draw.prompt.begun)
            with_tools = bool(ask.tools) and ask.may_call
            parser = self._reading.parsers.parser(with_tools=with_tools, prompt_end=prompt_end, tools=ask.tools)
        vocabulary = self._reading.renderer.vocabulary
        return Reader(vocabulary, parser, ask.stops, call_prefix=draw.plan.call_prefix)

    async def _sampled(self, draw: Draw, reader: Reader) -> Completion:
        """Sample one choice, telling it as it grows; what is cut short goes on, until some tries brought nothing."""
        completion = Completion(lost=LEFT)
        in_vain = cuts = 0
        while in_vain < TRIES and cuts < MOST_CUTS and not draw.running.aborted:
            if in_vain:
                self.counters["retried"] += 1
                await _backoff(in_vain)
            elif completion.ids:
                self.counters["resumed"] += 1
            work = draw.work(f"nexrl-{new_id()}")
            try:
                found = await self._tried(draw, reader, rest_of(work, completion))
            except ApiError as error:
                if not completion.ids:
                    raise
                completion.lost = str(error)  # what was sampled is recorded all the same
                break
            completion = settled(joined(completion, found), work)
            if found.spoken or not was_cut(completion) or draw.running.aborted:
                return completion
            if completion.ids and not resumable(completion, work):
                return completion
            in_vain, cuts = (0, cuts + 1) if found.ids else (in_vain + 1, cuts)
        if completion.ids:
            return completion
        why = f"the engine aborted the request: {completion.message or 'no reason given'}"
        raise unavailable(completion.lost or why)

    async def _tried(self, draw: Draw, reader: Reader, work: Work) -> Completion:
        hearing = Hearing(draw, reader, self._vocabulary)
        try:
            async with self.pool.seat(draw.plan.caller.session) as engine:
                if draw.running.aborted:  # while it waited at the door
                    raise unavailable(LEFT)
                engine.check(work)
                draw.running.rids[work.rid] = engine
                await engine.complete(work, hearing)
        except EngineLost as error:
            hearing.completion.lost = str(error)
            hearing.completion.finish = "abort"
        finally:
            draw.running.rids.pop(work.rid, None)
        return hearing.completion

    def _outcome(self, draw: Draw, reader: Reader, completion: Completion) -> Outcome:
        choice = Choice(
            message=reader.message,
            finish_reason=completion.finish or "abort",
            stop=completion.matched if isinstance(completion.matched, str) else None,
            tokens=texts_of(completion, 0, self._vocabulary) if draw.plan.ask.logprobs else None,
        )
        thought = "reasoning_content" in reader.message
        usage = Usage(
            prompt_tokens=len(draw.prompt.ids) or completion.prompt_tokens,
            completion_tokens=len(completion.ids) or completion.completion_tokens,
            cached_tokens=completion.cached_tokens,
            reasoning_tokens=reasoning_tokens(self._reader(draw), completion.ids) if thought else 0,
        )
        return Outcome(choice, usage)

    def _ended(self, session: str, task: "asyncio.Task[list[Outcome]]") -> None:
        self.active[session].discard(task)
        if not self.active[session]:
            del self.active[session]
        if not task.cancelled():
            task.exception()  # the client may have gone, and nobody else would look at it


async def _backoff(attempt: int) -> None:
    """Wait before another try: 0.1 s, 0.5 s, 2.5 s."""
    await asyncio.sleep(0.1 * 5 ** (attempt - 1))
