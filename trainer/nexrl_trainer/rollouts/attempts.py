"""Run the rollouts of a group: attempts, each from its key to its outcome.

An attempt's life: registered, agent started with a key of its own, spans flushed, judged, outcome stored. A rollout
that fails is tried again with a new attempt id, then recorded as failed with its reason; the run goes on. Which groups
are run, and when, is `feed.py`'s and `evaluation.py`'s part.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from nexrl.errors import NexrlError
from nexrl.keys import attempt_key, new_attempt_id
from nexrl.records import Attempt, Group, Outcome
from nexrl_ingest.client import IngestClient
from nexrl_trainer.recipe.tree import Agent
from nexrl_trainer.rollouts.command import Ended, agent_environment, fill, run_command
from nexrl_trainer.rollouts.judging import Judge
from nexrl_trainer.rollouts.proxy import ProxyClient
from nexrl_trainer.rollouts.slots import Priority, Slots

ERROR_LINES = 3


def _nothing() -> None:
    pass


class Attempts:
    """Runs agents, `agent.concurrency` at a time; `on_outcome` hears of every final outcome."""

    def __init__(
        self,
        *,
        agent: Agent,
        folder: Path,
        model_name: str,
        judge: Judge,
        ingest: IngestClient,
        proxy: ProxyClient,
        admin_key: str,
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        self._agent = agent
        self._folder = folder
        self._model_name = model_name
        self._judge = judge
        self._ingest = ingest
        self._proxy = proxy
        self._admin_key = admin_key
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
                for index in left:
                    tasks.create_task(self._rollout(group, index, priority, began))
        except* NexrlError as errors:
            raise errors.exceptions[0] from None
        return len(left)

    async def _rollout(self, group: Group, index: int, priority: Priority, began: Callable[[], None]) -> None:
        async with self.slots.turn(priority):
            began()
            for tried in range(1, self._agent.attempts + 1):
                name = new_attempt_id(f"{group.id}-r{index:02d}", group.mode)
                attempt = Attempt(id=name, group=group.id, rollout=index)
                await self._ingest.put_attempt(attempt)
                outcome = await self._attempt(group, attempt, last=tried == self._agent.attempts)
                for final in await self._judge.settle(group, attempt, outcome):
                    self._on_outcome(final)
                if outcome.final:
                    return

    async def _attempt(self, group: Group, attempt: Attempt, *, last: bool) -> Outcome:
        fields = group.task.fields
        environment = agent_environment(
            self._proxy.url,
            self._ingest.url,
            attempt_key(attempt.id, self._admin_key),
            self._model_name,
            self._agent.env,
        )
        try:
            ended = await run_command(
                [fill(word, fields) for word in self._agent.command],
                stdin=None if self._agent.stdin is None else fill(self._agent.stdin, fields),
                environment=environment,
                folder=self._folder,
                timeout_s=self._agent.timeout_s,
            )
        except (OSError, ValueError) as error:
            return Outcome(status="failed", reason=f"agent: {self._agent.command[0]}: {error}", calls=0, final=last)
        calls = await self._proxy.flush(attempt.id)
        if calls is None:
            return Outcome(status="failed", reason="capture: its spans did not reach ingest in time", final=last)
        if problem := failure_of(ended, calls, self._agent.timeout_s):
            return Outcome(status="failed", reason=problem, calls=calls, final=last)
        return await self._judge.judge(group, attempt, ended, calls)


def failure_of(ended: Ended, calls: int, timeout_s: float) -> str | None:
    """Return why an attempt failed before anybody judged it, or None.

    Example: exit code 1 whose last line on standard error is `KeyError: 'x'` -> "agent: exit code 1: KeyError: 'x'"
    """
    if ended.timed_out:
        return f"agent: no end within {timeout_s:g} s"
    if ended.exit_code:
        said = " | ".join(line.strip() for line in ended.stderr.strip().splitlines()[-ERROR_LINES:])
        return f"agent: exit code {ended.exit_code}: {said}" if said else f"agent: exit code {ended.exit_code}"
    if not calls:
        return "agent: it ended without a model call; does it read OPENAI_BASE_URL and OPENAI_API_KEY?"
    return None
