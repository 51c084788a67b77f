"""Run held-out groups under the weights of the moment; training groups wait their turn meanwhile."""

import asyncio
from collections.abc import Sequence

from nexrl.errors import NexrlError
from nexrl.records import Group
from nexrl_ingest.client import GroupState, IngestClient
from nexrl_trainer.rollouts.attempts import Attempts
from nexrl_trainer.rollouts.planning import afresh, missing


async def evaluated(groups: Sequence[Group], attempts: Attempts, ingest: IngestClient) -> list[GroupState]:
    """Run what is missing of these groups and return how each of them went.

    Where all of them failed in an earlier start they are run once more, under other ids.
    """
    run = groups[0].run
    while True:
        states = {state.id: state for state in await ingest.groups(run, [group.id for group in groups])}
        planned = afresh(groups, states)
        if planned == groups:
            break
        groups = planned

    async def finish(number: int, group: Group) -> None:
        await ingest.put_group(group)
        await attempts.run(group, missing(group, states.get(group.id)), priority=(0, number))

    try:
        async with asyncio.TaskGroup() as tasks:
            for number, group in enumerate(groups):
                tasks.create_task(finish(number, group))
    except* NexrlError as errors:
        raise errors.exceptions[0] from None
    return await ingest.groups(run, [group.id for group in groups])
