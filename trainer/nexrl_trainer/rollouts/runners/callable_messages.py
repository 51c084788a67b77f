"""What the callable runner and its worker processes say to each other, as MessagePack."""

from typing import Any

from msgspec import Struct

from nexrl.records import Reward
from nexrl_trainer.rollouts.environments.rules import Rules


class Setup(Struct, frozen=True, tag=True, kw_only=True):
    """The first thing a worker is told: which function it runs."""

    file: str
    function: str
    rules: Rules | None = None
    """How the environments that the function makes are played; none: it is the agent itself."""


class Ready(Struct, frozen=True, tag=True, kw_only=True):
    """The function is there, or why not."""

    error: str = ""


class Start(Struct, frozen=True, tag=True, kw_only=True):
    """Call the function."""

    number: int
    attempt: str
    key: str
    task: dict[str, Any]


class Cancel(Struct, frozen=True, tag=True, kw_only=True):
    """Its result is not wanted any more. Not answered where the call cannot be stopped."""

    number: int


class Finished(Struct, frozen=True, tag=True, kw_only=True):
    """What the function returned, or the last lines of what it raised."""

    number: int
    answer: str = ""
    rewards: list[Reward] = []
    cut_off: str = ""
    error: str = ""


ToWorker = Setup | Start | Cancel
