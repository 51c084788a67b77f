"""What every service process does around its server: run an event loop, announce itself, and stop when told to.

A service prints `ready http://HOST:PORT` on standard output, and ends on SIGTERM, on SIGINT, or, when it was started
with `exit_with_parent`, when its standard input closes: then no crash of the parent leaves it behind.
"""

import asyncio
import contextlib
import ctypes
import gc
import os
import resource
import signal
import stat
import sys
from collections.abc import AsyncGenerator, Coroutine
from importlib.util import find_spec

from nexrl.errors import ConfigError

YOUNG, MIDDLE, OLD = 10_000, 10, 100
"""When each generation is collected: net allocations, and collections of the one before."""
_PR_SET_PDEATHSIG = 1


def run_loop(main: Coroutine[None, None, None]) -> None:
    """Run an event loop: uvloop's where it is installed."""
    _collect_rarely()
    factory = None
    if find_spec("uvloop"):
        import uvloop

        factory = uvloop.new_event_loop
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main)


class Stopping:
    """What a process that serves is asked: to stop, and perhaps to make haste with it."""

    def __init__(self) -> None:
        self.asked = asyncio.Event()
        """By a signal, or by the parent's end."""
        self.hurried = asyncio.Event()
        """By a second signal, or by the parent's end: nobody waits for what still runs."""

    def signalled(self) -> None:
        """Take note of a signal."""
        if self.asked.is_set():
            self.hurried.set()
        self.asked.set()

    def orphaned(self) -> None:
        """Take note of the parent's end."""
        self.asked.set()
        self.hurried.set()


@contextlib.asynccontextmanager
async def stopping(*, exit_with_parent: bool = False) -> AsyncGenerator[Stopping]:
    """Watch for signals, and for the parent's end, for as long as this is open; then signals are ignored.

    Raises ConfigError where the parent's end could not be seen.
    """
    if exit_with_parent:
        parents_end()
    told, loop = Stopping(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, told.signalled)
    watcher = loop.create_task(_end_of_input(told)) if exit_with_parent else None
    try:
        yield told
    finally:
        if watcher:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher


async def serve_until_stopped(host: str, port: int, *, exit_with_parent: bool = False) -> None:
    """Announce the address, and return once the process is asked to stop."""
    async with stopping(exit_with_parent=exit_with_parent) as told:
        # Only now: whoever reads this line may ask us to stop at once.
        announce(host, port)
        await told.asked.wait()


def announce(host: str, port: int) -> None:
    """Tell whoever started us where we serve."""
    shown = f"[{host}]" if ":" in host else host
    sys.stdout.write(f"ready http://{shown}:{port}\n")
    sys.stdout.flush()


def allow_many_files() -> None:
    """Raise the limit of open files as far as the system lets: each connection, and each pipe of an agent, is one."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # macOS calls it unlimited, and refuses that
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _collect_rarely() -> None:
    """Keep what was loaded out of garbage collection, and what sessions hold out of most of it.

    They are no garbage, and looking through all of them stops the process for tenths of a second.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG, MIDDLE, OLD)


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone, however that went: prctl(2). Linux alone has it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def parents_end() -> int:
    """Return the descriptor that closes with the parent, standard input; raises ConfigError where it never could."""
    descriptor = sys.stdin.fileno()
    kind = os.fstat(descriptor).st_mode
    if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or os.isatty(descriptor)):
        raise ConfigError(
            "--exit-with-parent: standard input is a file, which ends with nobody; give it a pipe that the parent "
            "holds open, or leave the option out"
        )
    return descriptor


async def _end_of_input(told: Stopping) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while await reader.read(1024):
            pass
        told.orphaned()
    finally:
        transport.close()
