"""What a worker process and its owner say to each other, as MessagePack."""

from msgspec import Struct

from nexrl.records import Reward
from nexrl.rewards.rollout import Rollout

STARTED = b""
"""An empty message: the file is imported, the function ready, its time begins to count."""


class Request(Struct, frozen=True, kw_only=True):
    """Judge a rollout, or a group."""

    file: str
    name: str
    """The function's, in that file."""
    rollouts: list[Rollout]


class Reply(Struct, frozen=True, kw_only=True):
    """Each rollout's rewards, or why there are none."""

    rewards: list[list[Reward]] = []
    error: str = ""
