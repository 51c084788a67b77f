"""Run reward functions in worker processes, which can be killed: a hang, a crash or `os._exit` ends only the worker.

Started when they are needed, as many as there are cores, each with one request at a time; one that did not answer in
time is killed with its children, and another takes its place. What functions print goes to a log.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import IO

from nexrl.errors import RewardError
from nexrl.keys import ADMIN_KEY_VARIABLE
from nexrl.records import Reward, decode
from nexrl.rewards.frames import HEAD, Reply, Request, framed
from nexrl.rewards.function import RewardFunction
from nexrl.rewards.rollout import Rollout, only
from nexrl.rewards.threads import START_S, NoAnswerError

KEPT_BYTES = 4096
LOG_BYTES = 10_000_000
"""Of the log, and of the one before it, which is kept too."""
SHOWN_LINES = 3
SHOWN_CHARACTERS = 300
GRACE_S = 1.0


class Workers:
    """The worker processes of one `Scorer`; used by one event loop."""

    def __init__(self, log: Path | None = None) -> None:
        self._log = _opened(log) if log else None
        self._slots = asyncio.Semaphore(_cores())
        self._idle: list[_Process] = []

    async def judge(self, function: RewardFunction, rollouts: Sequence[Rollout]) -> list[list[Reward]]:
        """Return each rollout's rewards; raises RewardError where the function fails, ends or gives no answer."""
        request = Request(
            file=str(function.file), name=function.name, rollouts=[only(function.wanted, item) for item in rollouts]
        )
        async with self._slots:
            process = self._idle.pop() if self._idle else await self._start()
            try:
                reply = await process.ask(request, function.timeout_s)
            except BaseException:
                await process.kill()
                raise
            self._idle.append(process)
        if reply.error:
            raise RewardError(reply.error)
        return reply.rewards

    async def _start(self) -> "_Process":
        starting = asyncio.ensure_future(_Process.start(self._log))
        try:
            return await asyncio.shield(starting)
        except asyncio.CancelledError:
            await (await starting).kill()
            raise

    async def close(self) -> None:
        while self._idle:
            await self._idle.pop().kill()
        if self._log:
            self._log.close()


class _Process:
    """One worker."""

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
        # The end of the connection alone says too little: a child that a function left behind holds it open.
        self._end.add_done_callback(lambda _: self._reader.feed_eof())

    @classmethod
    async def start(cls, log: RotatingFileHandler | None) -> "_Process":
        ours, theirs = socket.socketpair()
        output, (read_end, write_end) = _Output(log), os.pipe()
        with theirs, open(write_end, "wb") as written:  # noqa: ASYNC230, PTH123 - a pipe
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "nexrl.rewards.worker", str(theirs.fileno()), str(os.getpid())),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=written,
                stderr=written,
                pass_fds=[theirs.fileno()],
                # Where rewards come from needs no key to everything.
                env={name: value for name, value in os.environ.items() if name != ADMIN_KEY_VARIABLE},
                start_new_session=True,
            )
        pipe: IO[bytes] = open(read_end, "rb", buffering=0)  # noqa: ASYNC230, PTH123, SIM115 - a pipe
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: output, pipe)
        return cls(process, await asyncio.open_connection(sock=ours), output, transport)

    async def ask(self, request: Request, timeout_s: float) -> Reply:
        """Return what the function said; raises RewardError where it ended, or said nothing in time."""
        limit_s = START_S
        self._output.newest = b""
        try:
            self._writer.write(framed(request))
            async with asyncio.timeout(limit_s):
                body = await self._message()
            if not body:
                limit_s = timeout_s
                async with asyncio.timeout(limit_s):
                    body = await self._message()
        except TimeoutError as error:
            raise NoAnswerError(request.name, limit_s) from error
        except (asyncio.IncompleteReadError, OSError) as error:
            raise RewardError(f"reward {request.name!r}: its process {await self._ended()}") from error
        return decode(body, Reply)

    async def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._end
        self._pipe.close()
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _message(self) -> bytes:
        [size] = HEAD.unpack(await self._reader.readexactly(HEAD.size))
        return await self._reader.readexactly(size)

    async def _ended(self) -> str:
        await asyncio.wait({self._end}, timeout=GRACE_S)
        if not self._end.done():
            return "closed the connection to its owner"
        code = self._end.result()
        how = f"ended with exit code {code}" if code >= 0 else f"was killed by {signal.Signals(-code).name}"
        lines = self._output.newest.decode(errors="replace").strip().splitlines()[-SHOWN_LINES:]
        said = " | ".join(line.strip() for line in lines)[-SHOWN_CHARACTERS:]
        return f"{how}: {said}" if said else how


class _Output(asyncio.Protocol):
    """What a worker prints: the newest for error messages, all of it for the log."""

    def __init__(self, log: RotatingFileHandler | None) -> None:
        self.newest = b""
        self._log = log

    def data_received(self, data: bytes) -> None:
        self.newest = (self.newest + data)[-KEPT_BYTES:]
        if self._log:
            self._log.handle(logging.makeLogRecord({"msg": data.decode(errors="replace")}))


def _opened(log: Path) -> RotatingFileHandler:
    handler = RotatingFileHandler(log, maxBytes=LOG_BYTES, backupCount=1, delay=True)
    handler.terminator = ""
    return handler


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
