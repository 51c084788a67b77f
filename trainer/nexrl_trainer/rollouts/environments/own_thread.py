"""Run what may block, in one thread of its own: whatever it is made of, it never leaves the thread that made it."""

import asyncio
import inspect
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from typing import Any


class OwnThread:
    """A thread for functions that are not async; those that are run in the event loop."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="environment")

    async def call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Return what a function returns, in the context of the caller.

        Cancelled, it waits for the function, which cannot be stopped: so who cancels learns whether it ended.
        """
        if inspect.iscoroutinefunction(function):
            return await function(*arguments, **named)
        context = copy_context()
        call = asyncio.get_running_loop().run_in_executor(
            self._pool, lambda: context.run(called, function, *arguments, **named)
        )
        try:
            return await asyncio.shield(call)
        except asyncio.CancelledError:
            await asyncio.gather(call, return_exceptions=True)
            raise

    def close(self) -> None:
        """Let the thread end once it has nothing to do."""
        self._pool.shutdown(wait=False)


def called(function: Callable[..., Any], /, *arguments: Any, **named: Any) -> Any:
    """Call a function whose result goes into a future; raises RuntimeError where it raises StopIteration."""
    try:
        return function(*arguments, **named)
    except StopIteration as error:
        # No future can hold one: its waiter would wait for ever.
        raise RuntimeError(f"{function} raised StopIteration") from error
