"""A Python process of ours that runs other people's code: a socket to talk to it, what it prints, a sure end.

`WorkerProcess` is its owner's side, `die_with` and `read_message` the worker's. What the two say to each other is
messages behind their lengths (`framed`); what they mean is the business of whoever starts it.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import struct
import sys
from collections.abc import Mapping
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO, Self

from nexrl.keys import ADMIN_KEY_VARIABLE
from nexrl.service import die_with_parent

HEAD = struct.Struct(">Q")
KEPT_BYTES = 4096
LOG_BYTES = 10_000_000
"""Of the log, and of the one before it, which is kept too."""
SHOWN_LINES = 3
SHOWN_CHARACTERS = 300
GRACE_S = 1.0


def framed(body: bytes) -> bytes:
    return HEAD.pack(len(body)) + body


class WorkerProcess:
    """One worker, in a session of its own; used by one event loop."""

    def __init__(
        self,
        process: asyncio.subprocess.Process,
        streams: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        output: "_Output",
        pipe: asyncio.ReadTransport,
    ) -> None:
        self._process = process
        self._reader, self._writer = streams
        self._output = output
        self._pipe = pipe
        self._end = asyncio.create_task(process.wait())
        # The end of the connection alone says too little: a child that was left behind holds it open.
        self._end.add_done_callback(lambda _: self._reader.feed_eof())

    @classmethod
    async def start(
        cls, module: str, *, log: RotatingFileHandler | None, environment: Mapping[str, str] = os.environ
    ) -> Self:
        """Start `python -m MODULE SOCKET PARENT`; it is never shown the admin key. Raises OSError where it cannot."""
        output, (read_end, write_end) = _Output(log), os.pipe()
        ours, theirs = socket.socketpair()
        pipe: IO[bytes] = open(read_end, "rb", buffering=0)  # noqa: ASYNC230, PTH123, SIM115 - a pipe
        with theirs, open(write_end, "wb") as written:  # noqa: ASYNC230, PTH123 - a pipe
            try:
                process = await asyncio.create_subprocess_exec(
                    # Unbuffered: it ends by a kill, and what it had still to write would be lost.
                    *(sys.executable, "-u", "-m", module, str(theirs.fileno()), str(os.getpid())),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=written,
                    stderr=written,
                    pass_fds=[theirs.fileno()],
                    env={name: value for name, value in environment.items() if name != ADMIN_KEY_VARIABLE},
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                pipe.close()
                raise
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: output, pipe)
        return cls(process, await asyncio.open_connection(sock=ours), output, transport)

    def send(self, body: bytes) -> None:
        self._writer.write(framed(body))

    async def receive(self) -> bytes:
        """Return the next message; raises IncompleteReadError or OSError where the worker has ended."""
        [size] = HEAD.unpack(await self._reader.readexactly(HEAD.size))
        return await self._reader.readexactly(size)

    def forget_output(self) -> None:
        """Let `how_it_ended` quote only what is printed from now on."""
        self._output.newest = b""

    async def how_it_ended(self) -> str:
        """Say how, with the last lines it printed: `ended with exit code 1: KeyError: 'x'`."""
        await asyncio.wait({self._end}, timeout=GRACE_S)
        if not self._end.done():
            return "closed the connection to its owner"
        code = self._end.result()
        how = f"ended with exit code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
        lines = self._output.newest.decode(errors="replace").strip().splitlines()[-SHOWN_LINES:]
        said = " | ".join(line.strip() for line in lines)[-SHOWN_CHARACTERS:]
        return f"{how}: {said}" if said else how

    async def kill(self) -> None:
        """Kill it with its process group."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await asyncio.wait({self._end})  # not `await`, which would cancel it where we are cancelled
        self._pipe.close()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()


async def started_or_killed(starting: "asyncio.Future[WorkerProcess]") -> WorkerProcess:
    """Return the process; where we are cancelled meanwhile, no process is left behind."""
    try:
        return await asyncio.shield(starting)
    except asyncio.CancelledError:
        await (await starting).kill()
        raise


def opened_log(log: Path) -> RotatingFileHandler:
    """Return what workers print to, bounded on disk."""
    handler = RotatingFileHandler(log, maxBytes=LOG_BYTES, backupCount=1, delay=True)
    handler.terminator = ""
    return handler


def cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def read_message(connection: socket.socket) -> bytes:
    """Return the next message of the owner; empty where it is gone."""
    head = _read(connection, HEAD.size)
    return _read(connection, HEAD.unpack(head)[0]) if head else b""


def die_with(parent: int) -> None:
    """End with the process `parent`, also in the midst of a function that never returns. Linux only."""
    die_with_parent()
    if sys.platform == "linux" and os.getppid() != parent:  # it was gone before that
        sys.exit(1)


def _read(connection: socket.socket, size: int) -> bytes:
    """Return so many bytes, or none where the owner is gone."""
    read = bytearray()
    while len(read) < size:
        chunk = connection.recv(min(size - len(read), 1 << 20))
        if not chunk:
            return b""
        read += chunk
    return bytes(read)


class _Output(asyncio.Protocol):
    """What a worker prints: the newest for error messages, all of it for the log."""

    def __init__(self, log: RotatingFileHandler | None) -> None:
        self.newest = b""
        self._log = log

    def data_received(self, data: bytes) -> None:
        self.newest = (self.newest + data)[-KEPT_BYTES:]
        if self._log:
            self._log.handle(logging.makeLogRecord({"msg": data.decode(errors="replace")}))
