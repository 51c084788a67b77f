"""Run one process to its end: its newest output, killed with its group when its time is up. Knows processes alone."""

import asyncio
import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import IO

from msgspec import Struct

KEPT_BYTES = 1 << 20
"""Of each output stream; an agent that prints more keeps its newest megabyte."""
DRAIN_S = 2.0
_STDOUT, _STDERR = 1, 2


class Exit(Struct, frozen=True, kw_only=True):
    """How a process ended."""

    exit_code: int
    """Negative: killed by that signal, as subprocess counts."""
    timed_out: bool
    stdout: str
    stderr: str
    duration_s: float


async def run_process(
    program: Sequence[str],
    *,
    stdin: str | None,
    environment: Mapping[str, str],
    folder: Path,
    timeout_s: float,
    pass_fds: Sequence[int] = (),
    kill_others: Callable[[], Awaitable[None]],
) -> Exit:
    """Run one process to its end; raises OSError where it cannot be started. Cancelling kills it too.

    `kill_others` kills what it started and what has left its group.
    """
    started = time.monotonic()
    with standard_input(stdin) as given:
        transport, process = await asyncio.get_running_loop().subprocess_exec(
            _Process,
            *program,
            stdin=given,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=dict(environment),
            cwd=folder,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    timed_out = False
    try:
        async with asyncio.timeout(timeout_s):
            await process.exited.wait()
    except TimeoutError:
        timed_out = True
    finally:
        duration_s = time.monotonic() - started
        # Also after a normal end: children that the agent left running hold its pipes and our machine.
        _kill_group(transport.get_pid())
        await kill_others()
        await process.exited.wait()
        # What is left in the pipes is read, but nobody is waited for who has hidden and holds them.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_S):
                await process.closed.wait()
        transport.close()
    return Exit(
        exit_code=transport.get_returncode() or 0,
        timed_out=timed_out,
        stdout=process.output[_STDOUT].text(),
        stderr=process.output[_STDERR].text(),
        duration_s=duration_s,
    )


class _Process(asyncio.SubprocessProtocol):
    """What asyncio tells of a process."""

    def __init__(self) -> None:
        self.exited = asyncio.Event()
        self.closed = asyncio.Event()
        self.output = {_STDOUT: Newest(), _STDERR: Newest()}

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.output[fd].add(data)

    def process_exited(self) -> None:
        # asyncio's own `wait` also waits for the pipes, which a child left behind would put off for ever.
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio names it
        self.closed.set()


class Newest:
    """The newest bytes of a stream, however long it is."""

    def __init__(self, keep: int = KEPT_BYTES) -> None:
        self._keep = keep
        self._bytes = bytearray()

    def add(self, data: bytes) -> None:
        self._bytes += data
        # Not at each piece: what is kept would be moved every time.
        if len(self._bytes) > 2 * self._keep:
            del self._bytes[: -self._keep]

    def text(self) -> str:
        return self._bytes[-self._keep :].decode(errors="replace")


@contextlib.contextmanager
def standard_input(text: str | None) -> Generator[IO[bytes]]:
    """Yield what a process reads: a file that has no name, so that no reader has to be waited for; or nothing."""
    with open(os.devnull, "rb") if text is None else tempfile.TemporaryFile() as file:  # noqa: PTH123 - no path of ours
        if text is not None:
            file.write(text.encode())
            file.seek(0)
        yield file


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
