"""Judge sessions that nobody planned: what was said of them later, and what reward functions make of them.

What it comes to is stored with the session before the group is trained, so a group that is leased once more, after a
crash, is worth what it was worth before. What goes wrong in a reward function is a failed rollout with a reason.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec
from msgspec import structs

from nexrl.errors import ConfigError, RewardError
from nexrl.records import Reward, TrainingGroup, Trajectory
from nexrl.rewards import TOTAL, RewardFunction, Rollout, Scorer, Step, Weighed, total
from nexrl_ingest.client import IngestClient, RewardRequest
from nexrl_trainer.recipe.sessions import Sessions
from nexrl_trainer.rollouts.conversation import last_message, longest_conversation
from nexrl_trainer.rollouts.judging import latest

TRAINER = "trainer"
OF_A_RUN = ("task", "exit_code", "stdout", "stderr", "duration_s")
"""What reward functions may ask for where the trainer ran the agent on a task, and here nobody can tell."""
AT_ONCE = 16
"""Sessions that are judged by themselves: a judge may be a model that serves others too."""


class Hindsight:
    """Judges leased groups; an asynchronous context manager, since reward functions have processes of their own.

    What functions in processes print goes to the file `log`.
    """

    def __init__(
        self, *, rewards: Sequence[RewardFunction], rule: Sessions, ingest: IngestClient, log: Path | None = None
    ) -> None:
        self._rule = rule
        self._ingest = ingest
        self._scorer = Scorer(rewards, weights=rule.feedback, log=log)
        self._turn = asyncio.Semaphore(AT_ONCE)
        self._wanted = frozenset(name for function in rewards for name in function.wanted)

    async def __aenter__(self) -> Self:
        await self._scorer.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._scorer.__aexit__(kind, error, trace)

    async def judged(self, group: TrainingGroup) -> TrainingGroup:
        """Return the group with what each session was worth; one that could not be judged has failed."""
        if all(_has_total(item) for item in group.trajectories):
            return group
        rollouts = await asyncio.gather(*(self._rollout(item) for item in group.trajectories))
        found = await asyncio.gather(*(self._alone(rollout) for rollout in rollouts))
        if self._scorer.compares:
            found = await self._compared(rollouts, found)
        pairs = zip(group.trajectories, found, strict=True)
        return structs.replace(group, trajectories=[await self._with_total(item, judged) for item, judged in pairs])

    async def _alone(self, rollout: Rollout) -> list[Weighed] | RewardError:
        try:
            async with self._turn:
                return await self._scorer.score(rollout)
        except RewardError as error:
            return error

    async def _compared(
        self, rollouts: Sequence[Rollout], found: list[list[Weighed] | RewardError]
    ) -> list[list[Weighed] | RewardError]:
        """Add what functions say that see a group as a whole: all of it that could be judged so far."""
        places = [index for index, item in enumerate(found) if not isinstance(item, RewardError)]
        try:
            scored = await self._scorer.score_group([rollouts[index] for index in places]) if places else []
        except RewardError as error:
            return [item if isinstance(item, RewardError) else error for item in found]
        more = dict(zip(places, scored, strict=True))
        return [item if isinstance(item, RewardError) else [*item, *more[index]] for index, item in enumerate(found)]

    async def _with_total(self, item: Trajectory, judged: list[Weighed] | RewardError) -> Trajectory:
        if _has_total(item):
            return item
        try:
            if isinstance(judged, RewardError):
                raise judged
            for weighed in judged:
                refuse_feedback(weighed.function, weighed.reward.name, self._rule)
            given = latest(item.rewards, agent=self._rule.agent)
            # What is waited for is there: only then ingest hands a session over.
            missing = "zero" if self._rule.missing == "zero" else "fail"
            rewards = total(judged, self._rule.feedback, given, missing)
        except RewardError as error:
            return structs.replace(item, status="failed", reason=str(error))
        kept = [await self._ingest.reward(item.session, _request(item, reward)) for reward in rewards]
        return structs.replace(item, rewards=[*item.rewards, *kept])

    async def _rollout(self, item: Trajectory) -> Rollout:
        """Return what is known of a session; what has to be fetched only where a function asks for it."""
        asked = self._wanted | ({"messages", "steps", "calls"} if self._wanted & {"rollout", "rollouts"} else set())
        told = bool(asked & {"messages", "steps", "answer", "answers", "rollouts"})
        session = await self._ingest.session(item.session) if told else None
        return Rollout(
            task={},
            answer=last_message(session) if session else "",
            messages=longest_conversation(session) if session else [],
            calls=await self._ingest.calls(item.session) if "calls" in asked else [],
            steps=msgspec.convert(session["steps"], list[Step]) if session else [],
        )


def refuse_planned(functions: Sequence[RewardFunction]) -> None:
    """Raise ConfigError for a function that asks for what only a planned rollout has."""
    for function in functions:
        if asked := [name for name in function.wanted if name in OF_A_RUN]:
            raise ConfigError(
                f"sessions.reward: {function.name!r} asks for {asked[0]!r}, and nobody ran these sessions on a task; "
                "it can have messages, answer, calls and steps"
            )


def refuse_feedback(function: str, name: str, rule: Sessions) -> None:
    """Raise RewardError where a function gives a reward that others are to give."""
    for taken in {function, name} & rule.feedback.keys():
        raise RewardError(f"reward {taken!r}: sessions.feedback waits for others to give it; rename the function's")


def _has_total(item: Trajectory) -> bool:
    return any(reward.name == TOTAL and reward.by == TRAINER for reward in item.rewards)


def _request(item: Trajectory, reward: Reward) -> RewardRequest:
    # The total comes last and only once: with it everything before it stands.
    once = hashlib.sha256(f"{TOTAL} {item.session}".encode()).hexdigest()
    return RewardRequest(
        name=reward.name,
        value=reward.value,
        call=reward.call,
        by=TRAINER,
        id=once if reward.name == TOTAL else secrets.token_hex(16),
        explanation=reward.explanation,
    )
