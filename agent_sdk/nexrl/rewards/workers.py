"""Run reward functions in worker processes, which can be killed: a hang, a crash or `os._exit` ends only the worker.

Started when they are needed, as many as there are cores, each with one request at a time; one that did not answer in
time is killed with its children, and another takes its place. What functions print goes to a log.
"""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from nexrl.errors import RewardError
from nexrl.records import Reward, decode, encode
from nexrl.rewards.frames import STARTED, Reply, Request
from nexrl.rewards.function import RewardFunction
from nexrl.rewards.rollout import Rollout, only
from nexrl.rewards.threads import START_S, NoAnswerError
from nexrl.worker_process import WorkerProcess, cores, opened_log, started_or_killed


class Workers:
    """The worker processes of one `Scorer`; used by one event loop."""

    def __init__(self, log: Path | None = None) -> None:
        self._log = opened_log(log) if log else None
        self._slots = asyncio.Semaphore(cores())
        self._idle: list[WorkerProcess] = []

    async def judge(self, function: RewardFunction, rollouts: Sequence[Rollout]) -> list[list[Reward]]:
        """Return each rollout's rewards; raises RewardError where the function fails, ends or gives no answer."""
        request = Request(
            file=str(function.file), name=function.name, rollouts=[only(function.wanted, item) for item in rollouts]
        )
        async with self._slots:
            process = self._idle.pop() if self._idle else await self._start()
            try:
                reply = await _answer(process, request, function.timeout_s)
            except BaseException:
                await process.kill()
                raise
            self._idle.append(process)
        if reply.error:
            raise RewardError(reply.error)
        return reply.rewards

    async def _start(self) -> WorkerProcess:
        starting = WorkerProcess.start("nexrl.rewards.worker", log=self._log)
        return await started_or_killed(asyncio.ensure_future(starting))

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().kill()
        if self._log:
            self._log.close()


async def _answer(process: WorkerProcess, request: Request, timeout_s: float) -> Reply:
    """Return what the function said; raises RewardError where its process ended, or said nothing in time."""
    limit_s = START_S
    process.forget_output()
    try:
        process.send(encode(request))
        async with asyncio.timeout(limit_s):
            body = await process.receive()
        if body == STARTED:
            limit_s = timeout_s
            async with asyncio.timeout(limit_s):
                body = await process.receive()
    except TimeoutError as error:
        raise NoAnswerError(request.name, limit_s) from error
    except (asyncio.IncompleteReadError, OSError) as error:
        raise RewardError(f"reward {request.name!r}: its process {await process.how_it_ended()}") from error
    return decode(body, Reply)
