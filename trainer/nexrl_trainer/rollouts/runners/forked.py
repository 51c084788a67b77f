"""Run one forked agent to its end, as `process.py` runs a process: its newest output, killed when its time is up."""

import asyncio
import contextlib
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from nexrl_trainer.rollouts.runners.fork_server import ForkServer
from nexrl_trainer.rollouts.runners.process import DRAIN_S, Exit, Newest, standard_input


async def run_forked(
    server: ForkServer,
    arguments: Sequence[str],
    *,
    stdin: str | None,
    environment: Mapping[str, str],
    folder: Path,
    timeout_s: float,
    kill_others: Callable[[], Awaitable[None]],
) -> Exit:
    """Run `python ARGUMENTS...` in a fork of the server. Cancelling kills it.

    Raises RunError where the server ended, OSError where the machine has no room for a process more.
    """
    started = time.monotonic()
    async with _output() as (stdout, into_stdout), _output() as (stderr, into_stderr):
        with into_stdout as out, into_stderr as err, standard_input(stdin) as given:
            streams = (given.fileno(), out.fileno(), err.fileno())
            forked = await server.fork(arguments, environment=environment, folder=folder, streams=streams)
        try:
            done, _ = await asyncio.wait({forked.ended}, timeout=timeout_s)
        finally:
            forked.kill()
            await kill_others()
        exit_code = await forked.ended
        duration_s = time.monotonic() - started
        # What is left in the pipes is read, but nobody is waited for who left the group and holds them.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await asyncio.gather(stdout.closed.wait(), stderr.closed.wait())
    return Exit(
        exit_code=exit_code,
        timed_out=not done,
        stdout=stdout.newest.text(),
        stderr=stderr.newest.text(),
        duration_s=duration_s,
    )


class _Output(asyncio.Protocol):
    """What one stream of an agent brings."""

    def __init__(self) -> None:
        self.newest = Newest()
        self.closed = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.newest.add(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio names it
        self.closed.set()


@asynccontextmanager
async def _output() -> AsyncGenerator[tuple[_Output, IO[bytes]]]:
    """Yield what is read from a new pipe, and the end that is written to, which the caller closes."""
    read_end, write_end = os.pipe()
    reading, writing = os.fdopen(read_end, "rb", buffering=0), os.fdopen(write_end, "wb", buffering=0)
    transport, output = await asyncio.get_running_loop().connect_read_pipe(_Output, reading)
    try:
        yield output, writing
    finally:
        writing.close()
        transport.close()
