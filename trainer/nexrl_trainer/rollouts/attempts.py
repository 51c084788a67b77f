"""Run the rollouts of a group: attempts, each from its key to its outcome.

An attempt's life: registered, agent started with a key of its own, key ended and spans flushed, judged, outcome stored.
A rollout that fails is tried again with a new attempt id, then recorded as failed with its reason; the run goes on. How
an agent is run is the runner's part; which groups are run, and when, `feed.py`'s and `evaluation.py`'s.
"""

import asyncio
import time
from collections.abc import Callable, Sequence

from msgspec import structs

from nexrl.errors import NexrlError
from nexrl.keys import attempt_key, new_attempt_id
from nexrl.records import Attempt, Group, Outcome
from nexrl_ingest.client import IngestClient
from nexrl_trainer.recipe.agent import Agent
from nexrl_trainer.rollouts.conversation import last_message
from nexrl_trainer.rollouts.failures import Failures
from nexrl_trainer.rollouts.judging import Judge
from nexrl_trainer.rollouts.proxy import Flushed, ProxyClient, Refused
from nexrl_trainer.rollouts.quarantine import Quarantine
from nexrl_trainer.rollouts.runners.runner import DisturbedError, Ended, Job, Runner
from nexrl_trainer.rollouts.slots import Priority, Slots

ERROR_LINES = 3
PAUSE_S, LONGEST_PAUSE_S = 0.1, 10.0
"""The first and the longest pause before an attempt that was disturbed is made again; each is twice the one before."""
DISTURBED_AT_MOST = 20
"""Disturbances of one rollout, after which it is recorded as failed; the pauses alone are two minutes by then."""


def _nothing() -> None:
    pass


class Attempts:
    """Runs agents, `agent.concurrency` at a time; `on_outcome` hears of every final outcome."""

    def __init__(
        self,
        *,
        agent: Agent,
        runner: Runner,
        judge: Judge,
        ingest: IngestClient,
        proxy: ProxyClient,
        admin_key: str,
        quarantine: Quarantine,
        failures: Failures,
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        self._agent = agent
        self._runner = runner
        self._judge = judge
        self._ingest = ingest
        self._proxy = proxy
        self._admin_key = admin_key
        self.quarantine = quarantine
        self._failures = failures
        self._on_outcome = on_outcome
        self.slots = Slots(agent.concurrency)

    async def run(
        self,
        group: Group,
        rollouts: Sequence[int],
        *,
        priority: Priority,
        began: Callable[[], None] = _nothing,
    ) -> int:
        """Run these rollouts of a group that ingest knows to their final outcomes; return how many had to be run.

        `began` is called as each of them starts. Raises NexrlError for what is neither the agent's nor the judge's
        fault. Cancelling kills the agents.
        """
        waiting = await self._judge.resume(group)
        left = [index for index in rollouts if index not in waiting]
        try:
            async with asyncio.TaskGroup() as tasks:
                running = [tasks.create_task(self._rollout(group, index, priority, began)) for index in left]
        except* NexrlError as errors:
            raise errors.exceptions[0] from None
        self.quarantine.note(group, [task.result() for task in running])
        return len(left)

    def forget(self, group: str) -> None:
        """Let go of what is kept of a group that is not run to its end."""
        self._judge.forget(group)

    async def _rollout(self, group: Group, index: int, priority: Priority, began: Callable[[], None]) -> str | None:
        """Run a rollout to its final outcome; return why its agent failed, if it did."""
        async with self.slots.turn(priority):
            began()
            tried, disturbed, alone = 0, 0, False
            while True:
                name = new_attempt_id(f"{group.id}-r{index:02d}", group.mode)
                attempt = Attempt(id=name, group=group.id, rollout=index)
                await self._ingest.put_attempt(attempt)
                last, pause_s, start = tried + 1 == self._agent.attempts, 0.0, time.monotonic()
                try:
                    outcome, problem = await self._attempt(group, attempt, alone=alone, last=last)
                    tried += 1
                except DisturbedError as error:
                    alone, pause_s, disturbed = error.suspect, pause_after(disturbed), disturbed + 1
                    outcome, problem = outcome_of(error, disturbed), None
                    self._failures.note(name, outcome.reason, Ended(answer=None, duration_s=time.monotonic() - start))
                for final in await self._judge.settle(group, attempt, outcome):
                    self._on_outcome(final)
                if outcome.final:
                    return problem
                await asyncio.sleep(pause_s)

    async def _attempt(self, group: Group, attempt: Attempt, *, alone: bool, last: bool) -> tuple[Outcome, str | None]:
        """Return what became of an attempt, and why its agent failed, if it did."""
        ended = await self._ended(group, attempt, alone=alone)
        flushed = await self._proxy.flush(attempt.id)
        if flushed is None:
            reason = "capture: its spans did not reach ingest in time"
            self._failures.note(attempt.id, reason, ended)
            return Outcome(status="failed", reason=reason, final=last), None
        if problem := failure_of(ended, flushed, self._agent.timeout_s):
            self._failures.note(attempt.id, problem, ended)
            return Outcome(status="failed", reason=problem, calls=flushed.calls, final=last), problem
        if ended.answer is None:
            session = await self._ingest.session(attempt.id)
            ended = structs.replace(ended, answer=last_message(session))
        return await self._judge.judge(group, attempt, ended, flushed.calls), None

    async def _ended(self, group: Group, attempt: Attempt, *, alone: bool) -> Ended:
        """Run the agent; return how it ended, also where it cannot be started."""
        key = attempt_key(attempt.id, self._admin_key)
        job = Job(attempt=attempt.id, key=key, task=group.task.fields, alone=alone)
        try:
            return await self._runner.run(job, self._agent.timeout_s)
        except (OSError, ValueError) as error:
            return Ended(problem=f"it cannot be started: {error}", answer="", duration_s=0.0)
        except DisturbedError:
            await self._proxy.flush(attempt.id)
            raise


def outcome_of(error: DisturbedError, disturbed: int) -> Outcome:
    """Return what became of a rollout's attempt that was disturbed, the so many-th of its attempts that were."""
    if disturbed < DISTURBED_AT_MOST:
        return Outcome(status="failed", reason=str(error), final=False)
    return Outcome(status="failed", reason=f"{error}; it is not tried again: {disturbed} attempts ended like that")


def pause_after(disturbed: int) -> float:
    """Return how long a rollout waits that has been disturbed again, after so many times before, in seconds."""
    return min(PAUSE_S * 2 ** min(disturbed, 10), LONGEST_PAUSE_S)


def failure_of(ended: Ended, flushed: Flushed, timeout_s: float) -> str | None:
    """Return why an attempt failed before anybody judged it, or None.

    Example: exit code 1 whose last line on standard error is `KeyError: 'x'` -> "agent: exit code 1: KeyError: 'x'"
    """
    if ended.timed_out:
        return f"agent: no end within {timeout_s:g} s"
    if ended.problem:
        return f"agent: {ended.problem}"
    if ended.exit_code:
        said = " | ".join(line.strip() for line in ended.stderr.strip().splitlines()[-ERROR_LINES:])
        return f"agent: exit code {ended.exit_code}: {said}" if said else f"agent: exit code {ended.exit_code}"
    if flushed.calls == flushed.of_other_models:
        return unheard(flushed)
    return None


def unheard(flushed: Flushed) -> str:
    """Return why an attempt has nothing from a model that may be trained."""
    if flushed.refused:
        return f"agent: it ended without a reply of the model: {refusal_of(flushed.refused)}"
    if flushed.calls:
        return "agent: it asked other models alone, never one that is trained; does it ask for OPENAI_MODEL?"
    return "agent: it ended without a model call; does it read OPENAI_BASE_URL and OPENAI_API_KEY?"


def refusal_of(refused: Refused) -> str:
    """Say what became of requests. Example: its 2 calls were refused, the last one (400): no `logit_bias` here."""
    if refused.count == 1:
        return f"its 1 call was refused ({refused.status}): {refused.message}"
    return f"its {refused.count} calls were refused, the last one ({refused.status}): {refused.message}"
