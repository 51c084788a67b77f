"""What a process that serves needs of its surroundings: an event loop, and enough open files."""

import asyncio
import contextlib
import gc
import resource
from collections.abc import Coroutine
from importlib.util import find_spec

YOUNG, MIDDLE, OLD = 10_000, 10, 100
"""When each generation is collected: net allocations, and collections of the one before."""


def run_loop(main: Coroutine[None, None, None]) -> None:
    """Run an event loop: uvloop's where it is installed."""
    _collect_rarely()
    factory = None
    if find_spec("uvloop"):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


def _collect_rarely() -> None:
    """Keep what was loaded out of garbage collection, and what sessions hold out of most of it.

    They are no garbage, and looking through all of them stops the process for tenths of a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)


def allow_many_files() -> None:
    """Raise the limit of open files as far as the system lets: each connection is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS calls it unlimited, and refuses that
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
