"""What a runner is: it runs an agent for one attempt and says how that ended; what it means `attempts.py` says."""

from collections.abc import Mapping
from typing import Any, Protocol, Self

from msgspec import Struct

from nexrl.errors import NexrlError
from nexrl.records import Reward


class Services(Struct, frozen=True, kw_only=True):
    """What agents are told of the run's services."""

    proxy: str
    """Its address, without a path."""
    ingest: str
    model: str
    """The name under which agents ask for the model."""
    secrets: frozenset[str] = frozenset()
    """Variables of our environment that are the services' alone: keys of other models."""


class Job(Struct, frozen=True, kw_only=True):
    """One attempt, as a runner is told of it."""

    attempt: str
    """Its id."""
    key: str
    """What its agent may call the model with."""
    task: Mapping[str, Any]
    """The task's row in the dataset."""
    alone: bool = False
    """It may share its process with nobody: one that it shared has crashed."""


class Ended(Struct, frozen=True, kw_only=True):
    """How an agent ended."""

    exit_code: int = 0
    """Of its process, negative where a signal killed it; 0 where the agent is no process of its own."""
    timed_out: bool = False
    problem: str = ""
    """Why it did not do its part, where more is known than an exit code says."""
    answer: str | None
    """None where nobody but the session's calls has it: `agent.answer: message`."""
    rewards: list[Reward] = []
    """What its environment gave, where it is one; those of calls name them by the ids of their replies."""
    cut_off: str = ""
    """Why it was not let go on, where it did its part as far as it got."""
    stdout: str = ""
    stderr: str = ""
    duration_s: float


def printed_answer(where: str, stdout: str) -> str | None:
    """Return the answer in what an agent printed, by the recipe's `agent.answer`; None where it is no part of that."""
    said = stdout.strip()
    return {"stdout": said, "last_line": said.rpartition("\n")[2].strip()}.get(where)


class DisturbedError(NexrlError):
    """An agent was ended for the sake of another: its attempt says nothing of it, and is made again."""

    def __init__(self, reason: str, *, suspect: bool = False) -> None:
        super().__init__(reason)
        self.suspect = suspect
        """It may have been this one's fault: it is to be alone next time."""


class Runner(Protocol):
    """An asynchronous context manager; leaving it ends every agent that still runs."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(self, *exception: object) -> None: ...

    async def run(self, job: Job, timeout_s: float) -> Ended:
        """Run an agent to its end; cancelling kills it.

        Raises OSError or ValueError where it cannot be started, DisturbedError where another's fault ended it.
        """
        ...
