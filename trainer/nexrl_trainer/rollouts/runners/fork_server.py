"""Agents in Python without their start-up: a fork server that has imported what they import.

The server is `forking.py`; it reads requests from a socket, each with the agent's three streams, and writes to a pipe:
one line once the modules are there, one for each agent it started and one for each that ended.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Self

from nexrl.errors import RunError
from nexrl_trainer.rollouts.runners.environment import inherited_environment

SCRIPT = Path(__file__).with_name("forking.py")
HEAD = 4
"""Bytes of a request's length, with which the streams travel."""
ENDED = "the agents' fork server ended; was it killed? Its agents ended with it"


class Forked:
    """An agent that the server forked."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """Its exit code; negative where a signal ended it. All of its process group is gone then."""

    def kill(self) -> None:
        """Kill the agent and all of its group, which it may not have yet, unless it ended."""
        for kill in (os.kill, os.killpg) if not self.ended.done() else ():
            with contextlib.suppress(ProcessLookupError):
                kill(self.pid, signal.SIGKILL)


class ForkServer:
    """One Python with modules in it that agents import. It ends with `close`, and with this process."""

    def __init__(self, process: asyncio.subprocess.Process, requests: socket.socket) -> None:
        self._process = process
        self._requests = requests
        self._asking = asyncio.Lock()
        self._asked: deque[asyncio.Future[Forked]] = deque()
        self._running: dict[int, Forked] = {}
        self._listening: asyncio.Task[None] | None = None
        self.pid = process.pid

    @classmethod
    async def start(
        cls, python: str, modules: Sequence[str], folder: Path, extra: Mapping[str, str] | None = None
    ) -> Self:
        """Return a server that has imported the modules, with this Python, found from the folder.

        `extra` is what the environment has beside what agents inherit: some modules read theirs when they are imported.

        Raises RunError with what it said where it could not.
        """
        requests, theirs = socket.socketpair()
        read_end, write_end = os.pipe()
        with tempfile.TemporaryFile() as said:
            try:
                process = await asyncio.create_subprocess_exec(
                    *(python, str(SCRIPT), str(theirs.fileno()), str(write_end), *modules),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=said,
                    pass_fds=[theirs.fileno(), write_end],
                    cwd=folder,
                    # For one core: the threads of a numeric library would not survive a fork.
                    env={**inherited_environment(), **(extra or {})},
                    start_new_session=True,
                )
            except OSError as error:
                requests.close()
                os.close(read_end)
                raise RunError(f"agent.preload: {python} cannot be started: {error}") from error
            finally:
                theirs.close()
                os.close(write_end)
            server, replies = cls(process, requests), asyncio.StreamReader()
            pipe: IO[bytes] = open(read_end, "rb", buffering=0)  # noqa: ASYNC230, PTH123, SIM115 - a pipe
            await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(replies), pipe)
            try:
                there = await replies.readline()
            except asyncio.CancelledError:
                process.kill()
                await server.close()
                raise
            if not there:
                await server.close()
                said.seek(0)
                last = said.read().decode(errors="replace").strip().rpartition("\n")[2]
                raise RunError(f"agent.preload: {last or 'the fork server ended and said nothing'}")
        server._listening = asyncio.create_task(server._listen(replies))
        return server

    async def fork(
        self, arguments: Sequence[str], *, environment: Mapping[str, str], folder: Path, streams: tuple[int, int, int]
    ) -> Forked:
        """Start `python ARGUMENTS...` with these three descriptors, which stay the caller's to close.

        Raises RunError where the server ended, OSError where the machine has no room for a process more.
        """
        if self._listening is None or self._listening.done():
            raise RunError(ENDED)
        message = {"arguments": list(arguments), "environment": dict(environment), "folder": str(folder)}
        asked = asyncio.ensure_future(self._ask(json.dumps(message).encode(), streams))
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            (await asked).kill()
            raise

    async def close(self) -> None:
        """End the server, and with it what it forked."""
        self._requests.close()
        await self._process.wait()
        if self._listening:
            await self._listening

    async def _ask(self, body: bytes, streams: tuple[int, int, int]) -> Forked:
        async with self._asking:
            answer: asyncio.Future[Forked] = asyncio.get_running_loop().create_future()
            self._asked.append(answer)
            # Blocking, since descriptors travel beside the bytes: a moment, and not in the loop.
            await asyncio.to_thread(_send, self._requests, body, streams)
        return await answer

    async def _listen(self, replies: asyncio.StreamReader) -> None:
        while line := await replies.readline():
            reply = json.loads(line)
            if "error" in reply:
                self._asked.popleft().set_exception(OSError(reply["error"]))
            elif "code" in reply:
                self._running.pop(reply["pid"]).ended.set_result(reply["code"])
            else:
                forked = self._running[reply["pid"]] = Forked(reply["pid"])
                self._asked.popleft().set_result(forked)
        for waiting in (*self._asked, *(forked.ended for forked in self._running.values())):
            waiting.set_exception(RunError(ENDED))
        self._asked.clear()
        self._running.clear()


def _send(requests: socket.socket, body: bytes, streams: tuple[int, int, int]) -> None:
    socket.send_fds(requests, [len(body).to_bytes(HEAD, "big")], streams)
    requests.sendall(body)
