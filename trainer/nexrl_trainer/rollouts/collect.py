"""Collect rollouts: plan groups with ingest, run the agent for each rollout, judge it, lease what became ready.

An attempt's life: registered, agent started with a key of its own, spans flushed, judged, outcome stored. A rollout
that fails is tried again with a new attempt id, then recorded as failed with its reason; the run goes on.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct, structs

from nexrl.errors import NexrlError, RewardError, RunError
from nexrl.keys import attempt_key, new_attempt_id
from nexrl.records import Attempt, Group, Outcome, TrainingGroup
from nexrl.rewards import RewardFunction, Rollout, score
from nexrl_ingest.client import GroupState, IngestClient
from nexrl_trainer.recipe.tree import Agent
from nexrl_trainer.rollouts.command import Ended, agent_environment, fill, run_command
from nexrl_trainer.rollouts.proxy import ProxyClient

LEASE_S = 24 * 3600.0
"""A restarted trainer takes its own leases over at once, so this only bounds how long a dead run holds its groups."""
POLL_S = 20.0
ERROR_LINES = 3


class Collected(Struct, frozen=True, kw_only=True):
    """The groups of one step, and the leases to acknowledge once what they taught is safe on disk."""

    groups: list[TrainingGroup]
    leases: list[str]
    ran: int
    """Rollouts this start ran itself; the others had been finished before an interruption."""


class Collector:
    """Runs agents, `concurrency` at a time; `on_outcome` hears of every final outcome."""

    def __init__(
        self,
        *,
        agent: Agent,
        folder: Path,
        model_name: str,
        rewards: Sequence[RewardFunction],
        ingest: IngestClient,
        proxy: ProxyClient,
        admin_key: str,
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        self._agent = agent
        self._folder = folder
        self._model_name = model_name
        self._rewards = rewards
        self._ingest = ingest
        self._proxy = proxy
        self._admin_key = admin_key
        self._on_outcome = on_outcome
        self._reads_messages = any({"messages", "rollout"} & set(function.wanted) for function in rewards)
        # A run has one trainer: what an earlier start of it holds is ours.
        self._first_lease = True
        self._slots = asyncio.Semaphore(agent.concurrency)

    async def collect(self, groups: Sequence[Group]) -> Collected:
        """Run what is missing of these groups and lease them, in their order.

        Leased groups that are not among them were trained before a checkpoint already: they are acknowledged.
        """
        groups, ran = await self._run(groups)
        run, wanted = groups[0].run, {group.id for group in groups}
        found: dict[str, tuple[str, TrainingGroup]] = {}
        while wanted - found.keys():
            leased = await self._ingest.lease(
                run, limit=len(groups), wait_s=POLL_S, lease_s=LEASE_S, steal=self._first_lease
            )
            self._first_lease = False
            await self._ingest.ack([item.lease for item in leased if item.group.group.id not in wanted])
            found |= {item.group.group.id: (item.lease, item.group) for item in leased if item.group.group.id in wanted}
        ordered = [found[group.id] for group in groups]
        return Collected(groups=[item for _, item in ordered], leases=[lease for lease, _ in ordered], ran=ran)

    async def evaluate(self, groups: Sequence[Group]) -> list[GroupState]:
        """Run what is missing of these groups and return how each of them went."""
        groups, _ = await self._run(groups)
        return await self._ingest.groups(groups[0].run, [group.id for group in groups])

    async def _run(self, groups: Sequence[Group]) -> tuple[Sequence[Group], int]:
        """Run what is missing; return the groups as they were planned in the end, and how many rollouts ran."""
        groups, states = await self._plan(groups)
        trained = [group.id for group in groups if group.id in states and states[group.id].state == "done"]
        if trained and groups[0].mode == "train":
            raise RunError(
                f"{', '.join(trained)}: trained and acknowledged already, but no checkpoint holds it; "
                "was one removed? Choose another --run"
            )
        for group in groups:
            await self._ingest.put_group(group)
        done = {(id_, outcome.rollout) for id_, state in states.items() for outcome in state.outcomes}
        missing = [(group, index) for group in groups for index in range(group.size) if (group.id, index) not in done]
        try:
            async with asyncio.TaskGroup() as tasks:
                for group, index in missing:
                    tasks.create_task(self._rollout(group, index))
        except* NexrlError as errors:
            raise errors.exceptions[0] from None
        return groups, len(missing)

    async def _plan(self, groups: Sequence[Group]) -> tuple[Sequence[Group], Mapping[str, GroupState]]:
        """Return the groups as they are to be run, and what ingest knows of them."""
        while True:
            found = await self._ingest.groups(groups[0].run, [group.id for group in groups])
            states = {state.id: state for state in found}
            planned = afresh(groups, states)
            if planned == groups:
                return groups, states
            groups = planned

    async def _rollout(self, group: Group, index: int) -> None:
        async with self._slots:
            for tried in range(1, self._agent.attempts + 1):
                name = new_attempt_id(f"{group.id}-r{index:02d}", group.mode)
                attempt = Attempt(id=name, group=group.id, rollout=index)
                await self._ingest.put_attempt(attempt)
                outcome = await self._attempt(group, attempt, last=tried == self._agent.attempts)
                await self._ingest.put_outcome(attempt.id, outcome)
                if outcome.final:
                    self._on_outcome(outcome)
                    return

    async def _attempt(self, group: Group, attempt: Attempt, *, last: bool) -> Outcome:
        fields = group.task.fields
        environment = agent_environment(
            self._proxy.url, attempt_key(attempt.id, self._admin_key), self._model_name, self._agent.env
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
        return await self._judge(group, attempt, ended, calls)

    async def _judge(self, group: Group, attempt: Attempt, ended: Ended, calls: int) -> Outcome:
        conversation = longest_conversation(await self._ingest.session(attempt.id)) if self._reads_messages else []
        rollout = Rollout(
            task=group.task.fields,
            answer=ended.stdout.strip(),
            messages=conversation,
            duration_s=ended.duration_s,
        )
        try:
            rewards = await score(self._rewards, rollout)
        except RewardError as error:
            # The agent did its part: running it again would not mend the judge.
            return Outcome(status="failed", reason=str(error), calls=calls)
        return Outcome(status="completed", rewards=rewards, calls=calls)


def afresh(groups: Sequence[Group], states: Mapping[str, GroupState]) -> Sequence[Group]:
    """Plan anew, under other ids, what failed as a whole in an earlier start: the agent may have been mended."""

    def hopeless(group: Group) -> bool:
        state = states.get(group.id)
        return bool(state) and state.final == state.size and all(item.status == "failed" for item in state.outcomes)

    while all(hopeless(group) for group in groups):
        groups = [structs.replace(group, id=f"{group.id}-again") for group in groups]
    return groups


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


def longest_conversation(session: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the messages along the session's longest chain, each call's new ones and its reply in turn."""
    calls = {call["id"]: call for call in session["calls"]}
    lines = [_from_the_start(chain, calls) for chain in session["chains"] if chain]
    chain = max(lines, key=len, default=[])
    # A call without a parent brings the whole conversation, also where its tokens were found to extend a chain.
    start = max((place for place, id_ in enumerate(chain) if calls[id_]["parent"] is None), default=0)
    return [message for id_ in chain[start:] for message in (*calls[id_]["messages"], calls[id_]["reply"])]


def _from_the_start(chain: list[str], calls: Mapping[str, Any]) -> list[str]:
    """Put before a branch the calls it branched from."""
    line = list(chain)
    while (parent := calls[line[0]]["parent"]) in calls:
        line.insert(0, parent)
    return line
