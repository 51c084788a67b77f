"""Keep rollouts flowing: start groups while what they teach can still be fresh, hand over those that are done.

Synchronous is `max_staleness` 0: the groups of a step are started when the step begins, and nothing runs while it
trains. With k, the groups of up to k steps more are open at any time, also while a step trains. So rollouts are never
further ahead of the trainer than it can use, and what a straggler brings too late is dropped (or kept, where the recipe
weighs it). Which groups are ready, too old or without contrast is decided by ingest's pool; running an agent is
`attempts.py`'s job.
"""

import asyncio
import math
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Self

from nexrl.errors import RunError
from nexrl.records import Group
from nexrl_ingest.client import GroupState, IngestClient, Leased, Rule
from nexrl_trainer.recipe.tree import Rollouts
from nexrl_trainer.rollouts.attempts import Attempts
from nexrl_trainer.rollouts.collected import GIVEN_UP, LEASE_S, STALE, UNREADABLE, WITHOUT_CONTRAST, Collected
from nexrl_trainer.rollouts.planning import Position, afresh, missing

POLL_S = 1.0
HOPELESS = 8
"""Groups in a row that nobody can read, until those after them seem no better; a step's groups, where it takes more."""


class _Open:
    """A group on its way."""

    def __init__(self, group: Group, number: int) -> None:
        self.group = group
        self.number = number
        self.task: asyncio.Task[None]
        self.ran = 0
        self.began: int | None = None
        """Weight version when its first rollout started."""


class Feed:
    """The flow of one run's groups; `plan(n)` is its group number n. Use as an asynchronous context manager."""

    def __init__(
        self,
        recipe: Rollouts,
        *,
        plan: Callable[[int], Group],
        attempts: Attempts,
        ingest: IngestClient,
        position: Position,
        version: int,
    ) -> None:
        self._recipe = recipe
        self._plan = plan
        self._attempts = attempts
        self._ingest = ingest
        self._returning = deque(position.open)
        self._planned = position.planned
        self._version = version
        self._open: dict[str, _Open] = {}
        self._renamed: dict[int, Group] = {}
        self._ending: set[asyncio.Task[None]] = set()
        self._dropped: Counter[str] = Counter()
        self._unreadable = 0
        """In a row, up to now."""
        # A run has one trainer: what an earlier start of it holds is ours.
        self._first_lease = True
        aged = recipe.stale == "drop" and (recipe.max_staleness or recipe.oversampling > 1)
        self._rule = Rule(
            max_staleness=recipe.max_staleness if aged else None, drop_zero_advantage=bool(recipe.dynamic_sampling)
        )

    async def __aenter__(self) -> Self:
        await self._plan_afresh()
        return self

    async def __aexit__(self, *_: object) -> None:
        for one in self._open.values():
            self._stop(one)
        await asyncio.gather(*self._ending, return_exceptions=True)

    @property
    def position(self) -> Position:
        """Where to go on from, once what was taken is trained."""
        numbers = [*(one.number for one in self._open.values()), *self._returning]
        return Position(planned=self._planned, open=sorted(numbers))

    async def take(self, version: int, steps: int) -> Collected:
        """Return the groups a step trains on, by number; `steps` are left, this one included.

        There are `groups_per_step` of them, fewer where dynamic sampling found no more with contrast. Raises what went
        wrong with a rollout, where that was not the agent's or the judge's doing.
        """
        taken: list[tuple[_Open, Leased]] = []
        dropped: list[GroupState] = []
        wait_s = 0.0
        while (wanted := self._wanted(dropped) - len(taken)) > 0:
            self._admit(steps, len(taken), dropped)
            await self._one_is_done()
            found = await self._lease(wanted, version, wait_s)
            if found:
                self._unreadable = 0
            left_out = await self._left_out()
            taken += found
            dropped += left_out
            # What has just become ready may not be measured yet: ask again, and let ingest wait.
            wait_s = 0.0 if found or left_out else POLL_S
        if not self._recipe.max_staleness:
            self._give_up(list(self._open))
        return self._collected(taken, dropped)

    def advance(self, version: int) -> None:
        """Note that the engine samples with weights `version` now, and stop what began too long ago to be trained."""
        self._version = version
        if self._recipe.stale == "drop":
            oldest = version - self._recipe.max_staleness
            self._give_up([name for name, one in self._open.items() if one.began is not None and one.began < oldest])

    def _wanted(self, dropped: Sequence[GroupState]) -> int:
        """How many groups the step gets: of those without contrast, not all may be replaced."""
        limit = self._recipe.dynamic_sampling * self._recipe.groups_per_step
        return self._recipe.groups_per_step - max(0, _without_contrast(dropped) - limit)

    def _admit(self, steps: int, taken: int, dropped: Sequence[GroupState]) -> None:
        """Open groups until there are enough for this step and the steps ahead of it."""
        ahead = min(self._recipe.max_staleness, steps - 1) * self._recipe.groups_per_step
        room = math.ceil((self._wanted(dropped) + ahead) * self._recipe.oversampling) - taken
        while len(self._open) < room:
            number = self._returning.popleft() if self._returning else self._next()
            group = self._renamed.get(number) or self._plan(number)
            if self._attempts.quarantine.passes_over(group.task.id):
                continue
            self._open[group.id] = one = _Open(group, number)
            one.task = asyncio.create_task(self._run(one))

    def _next(self) -> int:
        self._planned += 1
        return self._planned - 1

    async def _run(self, one: _Open) -> None:
        group = one.group
        state = next(iter(await self._ingest.groups(group.run, [group.id])), None)
        if state and state.state == "done":
            raise RunError(
                f"{group.id}: trained and acknowledged already, but no checkpoint holds it; "
                "was one removed? Choose another --run"
            )
        if state and state.state == "dropped":
            return
        await self._ingest.put_group(group)

        def began() -> None:
            one.began = self._version if one.began is None else one.began

        priority = (1, one.number)
        one.ran = await self._attempts.run(group, missing(group, state), priority=priority, began=began)

    async def _one_is_done(self) -> None:
        """Return once a group that is open has all its outcomes; raises what went wrong with one."""
        done, _ = await asyncio.wait([one.task for one in self._open.values()], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def _lease(self, limit: int, version: int, wait_s: float) -> list[tuple[_Open, Leased]]:
        """Lease groups that are ready; one that is not open was trained before a checkpoint already."""
        [first, *_] = self._open.values()
        leased = await self._ingest.lease(
            first.group.run,
            limit=limit,
            wait_s=wait_s,
            lease_s=LEASE_S,
            steal=self._first_lease,
            rule=self._rule,
            weight_version=version,
        )
        self._first_lease = False
        await self._ingest.ack([item.lease for item in leased if item.group.group.id not in self._open])
        ours = [item for item in leased if item.group.group.id in self._open]
        return [(self._open.pop(item.group.group.id), item) for item in ours]

    async def _left_out(self) -> list[GroupState]:
        """Return the open groups that ingest has dropped, and close them."""
        done = [name for name, one in self._open.items() if one.task.done()]
        if not done:
            return []
        [first, *_] = self._open.values()
        states = await self._ingest.groups(first.group.run, done)
        dropped = [state for state in states if state.state == "dropped"]
        for state in dropped:
            one = self._open.pop(state.id)
            if state.dropped == STALE and one.began == self._version and one.ran == one.group.size:
                # Its successors would be as old: the run would go on like this for ever.
                raise RunError(
                    f"{state.id} began under weights {one.began}, and its tokens are of older ones: "
                    "does the engine report the version it samples with?"
                )
            self._dropped[str(state.dropped)] += 1
            self._refuse_hopeless(one, state)
        return dropped

    def _refuse_hopeless(self, one: _Open, state: GroupState) -> None:
        """Raise RunError where groups that were run in this start are unreadable, one after the other."""
        self._unreadable += state.dropped == UNREADABLE and one.ran > 0
        if self._unreadable >= max(HOPELESS, self._recipe.groups_per_step):
            raise RunError(
                f"{self._unreadable} groups in a row were dropped as {UNREADABLE}, {state.id} the last: calls of them "
                "cannot be read back. Ingest's log names the spans; do proxy and ingest run the same NexRL?"
            )

    def _give_up(self, names: Sequence[str]) -> None:
        for name in names:
            one = self._open.pop(name)
            self._stop(one)
            # Only then: what still ends would be kept for the rest of its group, which never comes.
            one.task.add_done_callback(lambda _, group=name: self._attempts.forget(group))
            self._dropped[GIVEN_UP] += 1

    def _stop(self, one: _Open) -> None:
        one.task.cancel()
        self._ending.add(one.task)
        one.task.add_done_callback(self._ending.discard)

    def _collected(self, taken: list[tuple[_Open, Leased]], dropped: Sequence[GroupState]) -> Collected:
        taken.sort(key=lambda pair: pair[0].number)
        rollouts = [item for _, leased in taken for item in leased.group.trajectories]
        rollouts += [item for state in dropped for item in state.outcomes]
        failures = [item.reason for item in rollouts if item.status == "failed"]
        counts, self._dropped = self._dropped, Counter()
        return Collected(
            groups=[leased.group for _, leased in taken],
            leases=[leased.lease for _, leased in taken],
            ran=sum(one.ran for one, _ in taken),
            dropped=counts,
            judged=len(rollouts) - len(failures),
            failures=failures,
            quarantined=self._attempts.quarantine.count,
            left_out=list(dropped),
        )

    async def _plan_afresh(self) -> None:
        """Where all of the first step failed in an earlier start, give its groups other ids."""
        first = [*self._returning, *range(self._planned, self._planned + self._recipe.groups_per_step)]
        numbers = first[: self._recipe.groups_per_step]
        planned = groups = [self._plan(number) for number in numbers]
        while True:
            found = await self._ingest.groups(groups[0].run, [group.id for group in groups])
            again = list(afresh(groups, {state.id: state for state in found}))
            if again == groups:
                break
            groups = again
        if groups != planned:
            self._renamed = dict(zip(numbers, groups, strict=True))


def _without_contrast(dropped: Sequence[GroupState]) -> int:
    return sum(state.dropped == WITHOUT_CONTRAST for state in dropped)
