"""Run reward functions in threads of this process: a sync one in a new thread each time, an async one in its loop.

A thread cannot be killed: one that hangs is left behind, and holds what it holds. `workers.py` has the cure.
"""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from nexrl.errors import RewardError
from nexrl.records import Reward
from nexrl.rewards.function import RewardFunction
from nexrl.rewards.rollout import Rollout

T = TypeVar("T")
START_S = 300.0
"""For what is done once per process: importing a file, making a class."""
PING_S = 1.0


class Threads:
    """Threads of one `Scorer`. Daemons, so that one that hangs cannot keep the process from ending."""

    def __init__(self) -> None:
        self._loops: dict[RewardFunction, _Loop] = {}

    async def judge(self, function: RewardFunction, rollouts: Sequence[Rollout]) -> list[list[Reward]]:
        """Return each rollout's rewards; raises RewardError where the function fails, or gives no answer in time."""
        if function.made_once:
            await self._run(function, _prepare(function), START_S)
        return await self._run(function, function.judge(rollouts), function.timeout_s)

    def close(self) -> None:
        for loop in self._loops.values():
            loop.stop()
        for loop in self._loops.values():
            loop.join()
        self._loops = {}

    async def _run(self, function: RewardFunction, work: Coroutine[Any, Any, T], limit_s: float) -> T:
        if not function.asynchronous:
            return await _within(limit_s, _in_new_thread(work, function.name), function)
        if function not in self._loops:
            self._loops[function] = _Loop(function.name)
        loop = self._loops[function]
        try:
            return await _within(limit_s, loop.submit(work), function)
        except TimeoutError:
            if not await loop.answers() and self._loops.get(function) is loop:
                # The function blocks its loop, so whatever is asked next would wait for ever.
                self._loops.pop(function).stop()
            raise


class _Loop:
    """An event loop in a thread of its own: all calls of one async function, so that they can share a client."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name=f"nexrl-reward-{name}", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def answers(self) -> bool:
        """Whether the loop still runs what it is given."""
        try:
            await asyncio.wait_for(asyncio.wrap_future(self.submit(asyncio.sleep(0))), PING_S)
        except TimeoutError:
            return False
        return True

    def stop(self) -> None:
        """Stop once whatever holds the loop lets go of it."""
        self._loop.call_soon_threadsafe(self._loop.stop)

    def join(self) -> None:
        """Wait until it has stopped, but not for a function that holds it."""
        self._thread.join(PING_S)

    def _run(self) -> None:
        self._loop.run_forever()
        self._loop.run_until_complete(_end_others())
        self._loop.close()


async def _end_others() -> None:
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    await asyncio.gather(*left, return_exceptions=True)


async def _within(limit_s: float, future: "Future[T]", function: RewardFunction) -> T:
    try:
        return await asyncio.wait_for(asyncio.wrap_future(future), limit_s)
    except TimeoutError as error:
        raise NoAnswerError(function.name, limit_s) from error


class NoAnswerError(RewardError, TimeoutError):
    """A function was given up; what it did may still go on where it ran."""

    def __init__(self, name: str, limit_s: float) -> None:
        super().__init__(f"reward {name!r}: no answer within {limit_s:g} s")


async def _prepare(function: RewardFunction) -> None:
    function.prepare()


def _in_new_thread(work: Coroutine[Any, Any, T], name: str) -> "Future[T]":
    future: Future[T] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(asyncio.run(work))
        except BaseException as error:  # noqa: BLE001 - whoever awaits it hears of it
            future.set_exception(error)

    # Not an executor: its threads are waited for when the process ends.
    thread = threading.Thread(target=run, name="nexrl-reward", daemon=True)
    with contextlib.suppress(RuntimeError):
        thread.start()
        return future
    work.close()
    raise RewardError(f"reward {name!r}: no thread can be started: do too many of them hang? Set run_in='process'")
