"""Judge rollouts: gather what reward functions ask for, score it, and store what became of every attempt.

`attempts.py` runs agents and knows when they ended; how functions run is `nexrl.rewards`; what waits for the rest of
its group is in `waiting.py`. What goes wrong in a reward function is a failed rollout with a reason.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from msgspec import structs

from nexrl.errors import RewardError
from nexrl.records import Attempt, Group, Outcome, Reward
from nexrl.rewards import RewardFunction, Rollout, Scorer, Step, Weighed, missing_names, total
from nexrl_ingest.client import IngestClient
from nexrl_trainer.recipe.tree import Rewards
from nexrl_trainer.rollouts.conversation import longest_conversation
from nexrl_trainer.rollouts.environments.rules import RETURN
from nexrl_trainer.rollouts.runners.runner import Ended
from nexrl_trainer.rollouts.waiting import Settled, Waiting, WaitingRoom

AGENT = "agent"


class Judge:
    """Judges attempts that ended; every outcome, failed ones too, is stored through it.

    An attempt's way: `judge` where its agent did its part, then `settle` with that outcome or with a failed one.
    A started run asks `resume` which rollouts of a group need not run again.

    Where a function compares the rollouts of a group, `settle` keeps them in `folder` until the last of them ended.
    """

    def __init__(
        self,
        *,
        rewards: Sequence[RewardFunction],
        rule: Rewards,
        ingest: IngestClient,
        folder: Path,
        log: Path | None = None,
    ) -> None:
        self._rule = rule
        self._ingest = ingest
        self._scorer = Scorer(rewards, weights=rule.weights, log=log)
        self._room = WaitingRoom(folder)
        self._held: dict[str, tuple[list[Weighed], Ended]] = {}
        """By attempt: what `settle` has to keep besides the outcome."""

    async def __aenter__(self) -> Self:
        await self._scorer.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._scorer.__aexit__(kind, error, trace)

    async def judge(self, group: Group, attempt: Attempt, ended: Ended, calls: int) -> Outcome:
        """Return what an attempt is worth, or why its judges could not say; `calls` is how many it made."""
        try:
            rollout = await self._rollout(group, attempt, ended, self._scorer.needs)
            judged = [*played(ended.rewards, self._rule.weights), *await self._scorer.score(rollout)]
            if not self._scorer.compares:
                rewards = await self._total(attempt, judged)
                return Outcome(status="completed", reason=ended.cut_off, rewards=rewards, calls=calls)
        except RewardError as error:
            # The agent did its part: running it again would not mend the judge.
            return Outcome(status="failed", reason=str(error), calls=calls)
        self._held[attempt.id] = judged, ended
        return Outcome(status="completed", reason=ended.cut_off, calls=calls)

    async def settle(self, group: Group, attempt: Attempt, outcome: Outcome) -> list[Outcome]:
        """Store an attempt's outcome, or keep it for its group; return the outcomes that are final and stored now.

        None where another attempt follows, or others of its group are still to end; then the last brings them all.
        """
        if not outcome.final or not self._scorer.compares:
            await self._ingest.put_outcome(attempt.id, outcome)
            return [outcome] if outcome.final else []
        judged, ended = self._held.pop(attempt.id, ([], None))
        self._room.add(Waiting(attempt=attempt, outcome=outcome, judged=judged, ended=ended))
        return await self._settle_group(group)

    async def resume(self, group: Group) -> frozenset[int]:
        """Return the rollouts of a group that ended in an earlier start and need not run again.

        Where all have, the group is judged and stored.
        """
        ended = frozenset(item.attempt.rollout for item in self._room.of(group.id))
        await self._settle_group(group)
        return ended

    def forget(self, group: str) -> None:
        """Let go of the rollouts of a group that wait for others which will never come."""
        for item in self._room.of(group):
            self._held.pop(item.attempt.id, None)
        self._room.forget(group)

    async def _settle_group(self, group: Group) -> list[Outcome]:
        verdict = self._room.verdict(group.id)
        if verdict is None:
            waiting = self._room.of(group.id)
            if len(waiting) < group.size:
                return []
            verdict = await self._compare(group, waiting)
            self._room.decide(group.id, verdict)
        for item in verdict:
            await self._ingest.put_outcome(item.attempt, item.outcome)
        self._room.forget(group.id)
        return [item.outcome for item in verdict]

    async def _compare(self, group: Group, waiting: Sequence[Waiting]) -> list[Settled]:
        """Return the outcomes of a group: all that were completed are judged together."""
        found = {item.attempt.id: item.outcome for item in waiting}
        compared = [item for item in waiting if item.ended]
        try:
            needs = self._scorer.group_needs
            rollouts = [await self._rollout(group, item.attempt, item.ended, needs) for item in compared if item.ended]
            scored = await self._scorer.score_group(rollouts) if rollouts else []
        except RewardError as error:
            failed = [structs.replace(item.outcome, status="failed", reason=str(error)) for item in compared]
            found |= {item.attempt.id: outcome for item, outcome in zip(compared, failed, strict=True)}
        else:
            for item, items in zip(compared, scored, strict=True):
                found[item.attempt.id] = await self._with_total(item, [*item.judged, *items])
        return [Settled(attempt=attempt, outcome=outcome) for attempt, outcome in found.items()]

    async def _with_total(self, item: Waiting, judged: Sequence[Weighed]) -> Outcome:
        try:
            return structs.replace(item.outcome, rewards=await self._total(item.attempt, judged))
        except RewardError as error:
            return structs.replace(item.outcome, status="failed", reason=str(error))

    async def _total(self, attempt: Attempt, judged: Sequence[Weighed]) -> list[Reward]:
        """Return a rollout's rewards with their total; what others gave is asked for where the recipe names some."""
        weights = self._rule.weights
        given = await self._ingest.rewards(attempt.id) if missing_names(judged, weights) else []
        return total(judged, weights, latest(given, agent=self._rule.agent), self._rule.missing)

    async def _rollout(self, group: Group, attempt: Attempt, ended: Ended, needs: Collection[str]) -> Rollout:
        """Return what is known of a rollout; what has to be fetched only where it is among `needs`."""
        session = await self._ingest.session(attempt.id) if {"messages", "steps"} & set(needs) else None
        return Rollout(
            task=group.task.fields,
            answer=ended.answer or "",
            messages=longest_conversation(session) if session else [],
            calls=await self._ingest.calls(attempt.id) if "calls" in needs else [],
            steps=msgspec.convert(session["steps"], list[Step]) if session else [],
            exit_code=ended.exit_code,
            stdout=ended.stdout,
            stderr=ended.stderr,
            duration_s=ended.duration_s,
        )


def played(rewards: Sequence[Reward], weights: Mapping[str, float]) -> list[Weighed]:
    """Give what an environment said its weight, as if a function had: it is the user's, not the agent's.

    Its return counts 1, anything else only where the recipe names it. Example: environment=3, won=1 -> 1 and 0
    """
    return [Weighed(item, weights.get(item.name, float(item.name == RETURN)), RETURN) for item in rewards]


def latest(rewards: Sequence[Reward], *, agent: bool) -> dict[str, float]:
    """Return the rewards of a rollout as a whole by name; the agent's own only with `agent`, and never before another.

    Example: thumbs=0 by a grant, then thumbs=1 by the agent -> thumbs 0
    """
    whole = [item for item in rewards if item.call is None and (agent or item.by != AGENT)]
    return {item.name: item.value for item in sorted(whole, key=lambda item: item.by != AGENT)}
