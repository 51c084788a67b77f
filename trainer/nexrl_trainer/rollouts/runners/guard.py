"""End the agents of a trainer that was killed: `python -m nexrl_trainer.rollouts.runners.guard`, one beside a run.

Its standard input is a pipe that closes with the trainer, however that went. A line says that an attempt begins,
`+ATTEMPT`, or that nothing of it is left, `-ATTEMPT`; what is open when the pipe closes is killed, wherever it hides
(`survivors.py`). Agents need to know nothing of it, in whatever language they are.
"""

import asyncio
import contextlib
import sys
from collections.abc import Generator, Iterable
from typing import Self

from nexrl_trainer.rollouts.runners.environment import inherited_environment
from nexrl_trainer.rollouts.runners.survivors import kill_all

MODULE = "nexrl_trainer.rollouts.runners.guard"


class Guard:
    """The trainer's side of it."""

    def __init__(self, process: asyncio.subprocess.Process, lines: asyncio.StreamWriter) -> None:
        self._process = process
        self._lines = lines

    @classmethod
    async def start(cls) -> Self:
        """Start the process, in a session of its own: what ends the trainer's whole group must not end it."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", MODULE),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.DEVNULL,
            env=inherited_environment(),
            start_new_session=True,
        )
        assert process.stdin
        return cls(process, process.stdin)

    @contextlib.contextmanager
    def over(self, attempt: str) -> Generator[None]:
        """Have what carries this attempt killed if the trainer goes away in here."""
        self._lines.write(f"+{attempt}\n".encode())
        try:
            yield
        finally:
            self._lines.write(f"-{attempt}\n".encode())

    async def close(self) -> None:
        """End it; whatever attempt is open ends with it."""
        self._lines.close()
        await self._process.wait()


def still_open(lines: Iterable[str]) -> set[str]:
    """Return the attempts that began and did not end. Example: +a, +b, -a -> b."""
    found: set[str] = set()
    for line in lines:
        attempt = line[1:].rstrip("\n")
        if line.startswith("+"):
            found.add(attempt)
        else:
            found.discard(attempt)
    return found


def main() -> None:
    kill_all(still_open(sys.stdin))


if __name__ == "__main__":
    main()
