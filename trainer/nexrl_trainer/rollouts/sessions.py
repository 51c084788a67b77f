"""Groups of sessions that nobody planned: wait for them, have them judged, hand them over.

Which sessions are over and have their feedback is ingest's to know, what they were worth `hindsight.py`'s; this asks
for as many groups as a step takes and says what it waits for. Nothing of it has to survive a crash: a group that was
not acknowledged is leased again.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Self

from msgspec import structs

from nexrl.records import Outcome
from nexrl_ingest.client import External, ExternalState, IngestClient, Leased, Rule
from nexrl_trainer.rollouts.collected import LEASE_S, Collected
from nexrl_trainer.rollouts.hindsight import Hindsight
from nexrl_trainer.rollouts.planning import Position

POLL_S = 5.0
"""How long ingest holds a request for groups; then people are told again what is waited for."""


class SessionFlow:
    """The flow of a run's groups, `size` a step; `say` is told what is waited for, `on_outcome` of every rollout."""

    def __init__(
        self,
        run: str,
        external: External,
        *,
        size: int,
        max_staleness: int | None,
        ingest: IngestClient,
        judge: Hindsight,
        say: Callable[[str], None],
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        self._run = run
        self._external = external
        self._size = size
        self._rule = Rule(max_staleness=max_staleness)
        self._ingest = ingest
        self._judge = judge
        self._say = say
        self._on_outcome = on_outcome
        self._dropped: Counter[str] = Counter()
        # A run has one trainer: what an earlier start of it holds is ours.
        self._first_lease = True

    async def __aenter__(self) -> Self:
        self._dropped = Counter((await self._standing()).dropped)
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    @property
    def position(self) -> Position:
        """Nothing: ingest knows which sessions were learned from."""
        return Position()

    async def take(self, version: int, steps: int) -> Collected:  # noqa: ARG002 - as every flow
        """Return as many groups as a step takes, judged, those that became ready first; waits as long as that takes."""
        # By group: one whose lease ran out meanwhile comes again.
        taken: dict[str, Leased] = {}
        while (wanted := self._size - len(taken)) > 0:
            found = await self._lease(wanted, version)
            judged = await asyncio.gather(*(self._judge.judged(leased.group) for leased in found))
            for leased, group in zip(found, judged, strict=True):
                taken[group.group.id] = structs.replace(leased, group=group)
                self._tell(taken[group.group.id])
            if len(taken) < self._size:
                self._say(waiting_for(len(taken), self._size, await self._standing()))
        return self._collected(list(taken.values()), await self._standing())

    def advance(self, version: int) -> None:
        """Nothing: how old a session is, its tokens say."""

    async def _lease(self, limit: int, version: int) -> list[Leased]:
        leased = await self._ingest.lease(
            self._run,
            limit=limit,
            wait_s=POLL_S,
            lease_s=LEASE_S,
            steal=self._first_lease,
            rule=self._rule,
            weight_version=version,
            external=self._external,
        )
        self._first_lease = False
        return leased

    async def _standing(self) -> ExternalState:
        return await self._ingest.external(self._run, self._external)

    def _tell(self, leased: Leased) -> None:
        for item in leased.group.trajectories:
            status = "failed" if item.status == "failed" else "completed"
            self._on_outcome(Outcome(status=status, reason=item.reason))

    def _collected(self, taken: list[Leased], standing: ExternalState) -> Collected:
        rollouts = [item for leased in taken for item in leased.group.trajectories]
        failures = [item.reason for item in rollouts if item.status == "failed"]
        before, self._dropped = self._dropped, Counter(standing.dropped)
        return Collected(
            groups=[leased.group for leased in taken],
            leases=[leased.lease for leased in taken],
            ran=0,
            dropped=self._dropped - before,
            judged=len(rollouts) - len(failures),
            failures=failures,
            standing=standing,
        )


def waiting_for(taken: int, size: int, standing: ExternalState) -> str:
    """Say what a step waits for.

    Example: "waiting for feedback: 3 of 8 groups; sessions: 2 still talking, 5 without feedback yet, 40 left without,
    1 waiting for others of their group; groups left out: 3 unreadable"
    """
    counts = {
        "still talking": standing.talking,
        "without feedback yet": standing.waiting,
        "left without": standing.without_feedback,
        "waiting for others of their group": standing.ready,
    }
    said = ", ".join(f"{count} {what}" for what, count in counts.items() if count) or "none"
    dropped = ", ".join(f"{count} {reason}" for reason, count in standing.dropped.items() if count)
    left_out = f"; groups left out: {dropped}" if dropped else ""
    return f"waiting for feedback: {taken} of {size} groups; sessions: {said}{left_out}"
