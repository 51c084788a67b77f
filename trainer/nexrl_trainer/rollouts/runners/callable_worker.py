"""A worker process of the callable runner: `python -m nexrl_trainer.rollouts.runners.callable_worker SOCKET PARENT`.

Calls one function, any number of times at once: coroutines in one event loop, others in a thread each; or plays what a
function makes, where that is an environment. Each call runs in its attempt's session, so whatever client it uses is
attributed. It ends when its owner does.
"""

import asyncio
import contextlib
import inspect
import os
import socket
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

import nexrl
from nexrl.errors import ConfigError, NexrlError
from nexrl.importing import import_file
from nexrl.parameters import wanted_parameters
from nexrl.records import encode
from nexrl.sessions import with_session
from nexrl.worker_process import HEAD, die_with, framed
from nexrl_trainer.rollouts.environments.own_thread import called
from nexrl_trainer.rollouts.environments.rules import Played
from nexrl_trainer.rollouts.runners.callable_messages import Cancel, Finished, Ready, Setup, Start, ToWorker

if TYPE_CHECKING:
    from nexrl_trainer.rollouts.environments.player import Player

PARAMETERS = ("task", "session", "base_url", "api_key", "model")
ERROR_LINES = 3
ERROR_CHARACTERS = 1000
THREADS = 10_000
"""Of sync functions at most; how many run is the owner's business."""


class Function:
    """The agent: called with what it asks for by parameter name."""

    def __init__(self, called: Callable[..., Any], wanted: list[str]) -> None:
        self.is_async = inspect.iscoroutinefunction(called)
        self._called = called
        self._wanted = wanted
        self._base_url, self._model = os.environ["OPENAI_BASE_URL"], os.environ["OPENAI_MODEL"]

    @classmethod
    def loaded(cls, file: str, name: str) -> "Function":
        """Import the file; raises ConfigError where that fails or the function cannot be called as it wants."""
        called = getattr(import_file(Path(file), "agent file"), name, None)
        if not callable(called):
            raise ConfigError(f"agent file {file}: no function {name!r} in it")
        try:
            return cls(called, wanted_parameters(called, PARAMETERS))
        except ValueError as error:
            raise ConfigError(f"agent {name!r} {error}") from error

    async def call(self, start: Start, threads: ThreadPoolExecutor) -> Played:
        with nexrl.session(start.attempt, key=start.key) as session:
            given = {
                "task": start.task,
                "session": session,
                "base_url": with_session(self._base_url, start.attempt),
                "api_key": start.key,
                "model": self._model,
            }
            arguments = {name: given[name] for name in self._wanted}
            if self.is_async:
                return Played(answer=written(await self._called(**arguments)))
            act = partial(copy_context().run, called, self._called, **arguments)
            return Played(answer=written(await asyncio.get_running_loop().run_in_executor(threads, act)))


class Worker:
    """The calls that run now."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._agent: Function | Player
        self._calls: dict[int, asyncio.Task[None]] = {}
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="agent")

    def told(self, message: ToWorker) -> None:
        match message:
            case Setup():
                self._say(self._set_up(message))
            case Start():
                call = asyncio.create_task(self._run(message))
                self._calls[message.number] = call
                call.add_done_callback(lambda _: self._calls.pop(message.number, None))
            case Cancel():
                # A thread cannot be stopped: its owner ends us, or lets it run on.
                if self._agent.is_async and message.number in self._calls:
                    self._calls[message.number].cancel()

    def _set_up(self, setup: Setup) -> Ready:
        # Before the agent is imported: it may make its client then.
        nexrl.instrument()
        try:
            self._agent = _loaded(setup)
        except ConfigError as error:
            return Ready(error=str(error))
        return Ready()

    async def _run(self, start: Start) -> None:
        try:
            played = await self._agent.call(start, self._threads)
        except asyncio.CancelledError:
            self._say(Finished(number=start.number, error="cancelled"))
        except NexrlError as error:
            self._say(Finished(number=start.number, error=str(error)))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - whatever an agent raises is its failure
            self._say(Finished(number=start.number, error=last_lines(error)))
        else:
            done = Finished(number=start.number, answer=played.answer, rewards=played.rewards, cut_off=played.cut_off)
            self._say(done)

    def _say(self, message: Ready | Finished) -> None:
        self._writer.write(framed(encode(message)))


def _loaded(setup: Setup) -> "Function | Player":
    if setup.rules is None:
        return Function.loaded(setup.file, setup.function)
    # Here, for a quick start of workers that need no client of ours.
    from nexrl_trainer.rollouts.environments.player import Player

    return Player.loaded(setup.file, setup.function, setup.rules)


def written(returned: Any) -> str:
    """Return an answer as text: what is none as JSON, nothing as nothing. Raises TypeError for what JSON has not."""
    if returned is None:
        return ""
    return returned if isinstance(returned, str) else msgspec.json.encode(returned).decode()


def last_lines(error: BaseException) -> str:
    """Return where an exception came from and what it says, in a line. Example: File "a.py", line 3 | KeyError: 'x'."""
    lines = "".join(traceback.format_exception(error)).strip().splitlines()[-ERROR_LINES:]
    return " | ".join(line.strip() for line in lines)[-ERROR_CHARACTERS:]


async def serve(connection: socket.socket) -> None:
    reader, writer = await asyncio.open_connection(sock=connection)
    worker = Worker(writer)
    with contextlib.suppress(asyncio.IncompleteReadError):
        while True:
            [size] = HEAD.unpack(await reader.readexactly(HEAD.size))
            worker.told(msgspec.msgpack.decode(await reader.readexactly(size), type=ToWorker))
    # Threads of calls that never return must not keep the process.
    os._exit(0)


def main() -> None:
    die_with(int(sys.argv[2]))
    asyncio.run(serve(socket.socket(fileno=int(sys.argv[1]))))


if __name__ == "__main__":
    main()
