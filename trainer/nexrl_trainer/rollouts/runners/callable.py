"""The callable runner: a Python function, many calls of it at once in a few worker processes that can be killed.

The function is the agent, or makes the environments that are played in its place (`environments/`).

A call whose time is up is cancelled; where that does not end it, its process is killed, and the other calls in there
are made again, which counts against none of them. A process that crashes leaves everybody in it a suspect: each is made
again in a process of its own.
"""

import asyncio
import secrets
import time
from itertools import count
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Self

from nexrl.errors import ConfigError
from nexrl.records import decode, encode
from nexrl.worker_process import WorkerProcess, cores, opened_log, started_or_killed
from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.rollouts.environments.rules import Rules
from nexrl_trainer.rollouts.runners.callable_messages import Cancel, Finished, Ready, Setup, Start
from nexrl_trainer.rollouts.runners.environment import ATTEMPT_VARIABLE, shared_environment
from nexrl_trainer.rollouts.runners.runner import DisturbedError, Ended, Job, Services
from nexrl_trainer.rollouts.runners.survivors import Survivors

MODULE = "nexrl_trainer.rollouts.runners.callable_worker"
NO_KEY = "each-call-has-a-session-of-its-own"
"""Clients want a key; whose calls they are is said by the session's header."""
START_S = 300.0
CANCEL_S = 2.0
"""A call that is cancelled has so long to end, before its process is killed."""


class CallableRunner:
    """Runs `agent.callable`, or plays `agent.environment`; what their code prints goes to `log`."""

    def __init__(self, agent: Agent, *, recipe_folder: Path, services: Services, log: Path) -> None:
        named = agent.callable or agent.environment
        assert named
        file, _, function = named.rpartition(":")
        rules = Rules(system=agent.system, max_turns=agent.max_turns, max_tokens=agent.max_tokens)
        self._setup = Setup(
            file=str(recipe_folder / Path(file).expanduser()),
            function=function,
            rules=rules if agent.environment else None,
        )
        self._environment = shared_environment(services, NO_KEY, agent.env)
        self._log = opened_log(log)
        self._places = [_Place() for _ in range(min(agent.workers or cores(), agent.concurrency))]
        self._alone = asyncio.Semaphore(len(self._places))
        self._survivors = Survivors()

    async def __aenter__(self) -> Self:
        # The first one shows whether the function can be had at all.
        await self._worker(self._places[0])
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.gather(*(place.worker.kill("the run ended") for place in self._places if place.worker))
        await self._survivors.close()
        self._log.close()

    async def run(self, job: Job, timeout_s: float) -> Ended:
        if job.alone:
            async with self._alone:
                place = _Place()
                try:
                    return await (await self._worker(place)).run(job, timeout_s)
                finally:
                    if place.worker:
                        await place.worker.kill("its call has ended")
        place = min(self._places, key=lambda place: place.calls)
        place.calls += 1
        try:
            return await (await self._worker(place)).run(job, timeout_s)
        finally:
            place.calls -= 1

    async def _worker(self, place: "_Place") -> "_Worker":
        async with place.starting:
            if place.worker is None or place.worker.ended:
                place.worker = await _Worker.start(self._setup, self._environment, self._log, self._survivors)
            return place.worker


class _Place:
    """Where a worker stands, and another one when it is gone."""

    def __init__(self) -> None:
        self.worker: _Worker | None = None
        self.calls = 0
        self.starting = asyncio.Lock()


class _Worker:
    """One process, and the calls in it."""

    def __init__(self, process: WorkerProcess, name: str, survivors: Survivors) -> None:
        self.ended = False
        self._process = process
        self._name = name
        self._survivors = survivors
        self._numbers = count()
        self._calls: dict[int, asyncio.Future[Finished]] = {}
        self._given_up: set[asyncio.Task[None]] = set()
        self._listening = asyncio.create_task(self._listen())

    @classmethod
    async def start(
        cls, setup: Setup, environment: dict[str, str], log: RotatingFileHandler, survivors: Survivors
    ) -> Self:
        """Start a process; raises ConfigError where it does not get as far as having the function."""
        name = f"worker-{secrets.token_hex(8)}"
        starting = WorkerProcess.start(MODULE, log=log, environment={**environment, ATTEMPT_VARIABLE: name})
        process = await started_or_killed(asyncio.ensure_future(starting))
        try:
            process.send(encode(setup))
            async with asyncio.timeout(START_S):
                ready = decode(await process.receive(), Ready)
        except TimeoutError as error:
            await process.kill()
            raise ConfigError(f"agent file {setup.file}: not imported within {START_S:g} s") from error
        except (asyncio.IncompleteReadError, OSError) as error:
            how = await process.how_it_ended()
            await process.kill()
            raise ConfigError(f"agent file {setup.file}: its process {how}") from error
        except asyncio.CancelledError:
            await process.kill()
            raise
        if ready.error:
            await process.kill()
            raise ConfigError(ready.error)
        return cls(process, name, survivors)

    async def run(self, job: Job, timeout_s: float) -> Ended:
        began, number = time.monotonic(), next(self._numbers)
        call: asyncio.Future[Finished] = asyncio.get_running_loop().create_future()
        # Somebody always hears of its error, also where the call was given up.
        call.add_done_callback(lambda call: call.cancelled() or call.exception())
        self._calls[number] = call
        start = Start(number=number, attempt=job.attempt, key=job.key, task=dict(job.task))
        self._process.send(encode(start))
        try:
            async with asyncio.timeout(timeout_s):
                finished = await asyncio.shield(call)
        except TimeoutError:
            await asyncio.shield(self._give_up(number, call, CANCEL_S))
            return Ended(timed_out=True, answer="", duration_s=time.monotonic() - began)
        except asyncio.CancelledError:
            # One that cannot be stopped may use up its time.
            left_s = timeout_s - (time.monotonic() - began)
            self._give_up(number, call, max(left_s, CANCEL_S))
            raise
        except _CrashedError as error:
            if not job.alone and error.calls > 1:
                raise DisturbedError(f"agent: {error}", suspect=True) from error
            return Ended(problem=str(error), answer="", duration_s=time.monotonic() - began)
        return Ended(
            problem=finished.error,
            answer=finished.answer,
            rewards=finished.rewards,
            cut_off=finished.cut_off,
            duration_s=time.monotonic() - began,
        )

    async def kill(self, reason: str) -> None:
        """End the process; whoever has a call in it hears that it was for another's sake."""
        self.ended = True
        disturbed, self._calls = self._calls, {}
        for call in disturbed.values():
            call.set_exception(DisturbedError(f"agent: its process was killed: {reason}"))
        await self._process.kill()
        await asyncio.shield(self._listening)

    def _give_up(self, number: int, call: "asyncio.Future[Finished]", grace_s: float) -> "asyncio.Task[None]":
        """Return the ending of a call that nobody wants any more; it goes on whoever waits for it."""
        task = asyncio.create_task(self._stop(number, call, grace_s))
        self._given_up.add(task)
        task.add_done_callback(self._given_up.discard)
        return task

    async def _stop(self, number: int, call: "asyncio.Future[Finished]", grace_s: float) -> None:
        self._process.send(encode(Cancel(number=number)))
        await asyncio.wait({call}, timeout=grace_s)
        # Whether or not it ended: nobody waits for it any more.
        self._calls.pop(number, None)
        if not call.done():
            await self.kill("another call in it did not end when its time was up")

    async def _listen(self) -> None:
        try:
            while True:
                finished = decode(await self._process.receive(), Finished)
                if call := self._calls.pop(finished.number, None):
                    call.set_result(finished)
        except (asyncio.IncompleteReadError, OSError):
            pass
        self.ended = True
        crashed, self._calls = self._calls, {}
        how = await self._process.how_it_ended() if crashed else ""
        for call in crashed.values():
            call.set_exception(_CrashedError(f"its process {how}", len(crashed)))
        await self._process.kill()
        await self._survivors.kill(self._name)


class _CrashedError(Exception):
    def __init__(self, reason: str, calls: int) -> None:
        super().__init__(reason)
        self.calls = calls
        """That were in it."""
