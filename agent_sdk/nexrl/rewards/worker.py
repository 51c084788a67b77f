"""A worker process: `python -m nexrl.rewards.worker SOCKET PARENT`. Judges one request after the other.

It ends when its owner does. Whatever else ends it, or holds it up, is noticed by its owner (`workers.py`).
"""

import asyncio
import os
import socket
import sys
from pathlib import Path

from nexrl.errors import RewardError
from nexrl.records import decode, encode
from nexrl.rewards.frames import STARTED, Reply, Request
from nexrl.rewards.function import RewardFunction
from nexrl.rewards.loading import load_rewards
from nexrl.worker_process import die_with, framed, read_message


class Worker:
    """Reward functions by file and name, and the loop their coroutines run in."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._functions: dict[tuple[str, str], RewardFunction] = {}
        self._process = os.getpid()

    def serve(self) -> None:
        """Judge until the owner closes the connection."""
        with asyncio.Runner() as runner:
            while body := read_message(self._connection):
                reply = self._judged(decode(body, Request), runner)
                if os.getpid() != self._process:
                    # The function forked, and its child came back here: the parent answers.
                    os._exit(0)
                self._connection.sendall(framed(encode(reply)))

    def _judged(self, request: Request, runner: asyncio.Runner) -> Reply:
        try:
            function = self._function(request.file, request.name)
            function.prepare()
            self._connection.sendall(framed(STARTED))
            return Reply(rewards=runner.run(function.judge(request.rollouts)))
        except RewardError as error:
            return Reply(error=str(error))

    def _function(self, file: str, name: str) -> RewardFunction:
        if (file, name) not in self._functions:
            self._functions |= {(file, function.name): function for function in load_rewards(Path(file))}
        if (file, name) not in self._functions:
            raise RewardError(f"reward {name!r}: it is gone from {file}; was the file changed during the run?")
        return self._functions[file, name]


def main() -> None:
    die_with(int(sys.argv[2]))
    Worker(socket.socket(fileno=int(sys.argv[1]))).serve()


if __name__ == "__main__":
    main()
