"""What travels between ingest and its clients besides the shared records: requests, and the state of groups."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from nexrl.records import TrainingGroup

State = Literal["open", "ready", "leased", "done"]


class LeaseRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ask for ready groups of a run."""

    run: str
    limit: Annotated[int, Meta(ge=1, le=10_000)] = 1
    wait_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    """How long to wait for the first ready group."""
    lease_s: Annotated[float, Meta(gt=0, le=30 * 86_400)] = 600.0
    """After this long without an ack the groups are ready again."""
    steal: bool = False
    """First end all leases of the run: a restarted trainer takes over what its predecessor held."""


class LeaseIds(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Leases to ack or to give back; all of them, or none where one cannot be."""

    leases: list[str]


class RewardRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named number for a session, or for one call of it."""

    name: Annotated[str, Meta(min_length=1, max_length=200)]
    value: float
    call: str | None = None
    by: str | None = None
    """Who judged; None for the key's own name: `trainer` for the admin key, `agent` for an attempt key."""


class Leased(Struct, frozen=True, kw_only=True):
    """A ready group, and the lease to ack once it has been learned from."""

    lease: str
    group: TrainingGroup


class RolloutState(Struct, frozen=True, kw_only=True):
    """The final outcome of one rollout."""

    rollout: int
    attempt: str
    status: Literal["completed", "failed"]
    reason: str
    rewards: dict[str, float]
    """Rewards of the rollout as a whole; where names collide, the trainer's wins over the agent's own."""


class GroupState(Struct, frozen=True, kw_only=True):
    """Where a group stands."""

    id: str
    task: str
    mode: Literal["train", "eval"]
    size: int
    final: int
    """Number of rollouts that have their final outcome."""
    state: State
    outcomes: list[RolloutState]
