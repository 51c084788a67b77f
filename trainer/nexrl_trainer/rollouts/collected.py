"""What a step gets to train on, and who brings it: rollouts that were planned (`feed.py`) or not (`sessions.py`)."""

from collections import Counter
from types import TracebackType
from typing import Protocol, Self

from msgspec import Struct

from nexrl.records import TrainingGroup
from nexrl_ingest.client import ExternalState, GroupState
from nexrl_trainer.rollouts.planning import Position

STALE = "stale"
WITHOUT_CONTRAST = "zero-advantage"
UNREADABLE = "unreadable"
GIVEN_UP = "given-up"
LEASE_S = 30 * 24 * 3600.0
"""As long as ingest lets, for a step may wait for days. A restarted trainer takes its own leases over at once, so this
only bounds how long a dead run holds its groups."""


class Collected(Struct, frozen=True, kw_only=True):
    """The groups of one step, and the leases to acknowledge once what they taught is safe on disk."""

    groups: list[TrainingGroup]
    leases: list[str]
    ran: int
    """Rollouts of them that this start ran itself; the others had been finished before an interruption."""
    dropped: Counter[str]
    """Groups left out since the step before, by reason: ingest's, and GIVEN_UP for those that were stopped."""
    judged: int
    """Rollouts with a reward, those of dropped groups included."""
    failures: list[str]
    """Why the others failed."""
    quarantined: int = 0
    """Tasks that are set aside by now."""
    left_out: list[GroupState] = []
    """Groups that were run to their end and dropped by ingest."""
    standing: ExternalState | None = None
    """How the sessions stand that nobody planned, where the run learns from those."""


class Flow(Protocol):
    """Brings the groups of one run; an asynchronous context manager."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    @property
    def position(self) -> Position:
        """Where to go on from, once what was taken is trained."""
        ...

    async def take(self, version: int, steps: int) -> Collected:
        """Return the groups a step trains on; `steps` are left, this one included."""
        ...

    def advance(self, version: int) -> None:
        """Note that the engine samples with weights `version` now."""
        ...
