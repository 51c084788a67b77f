"""Bring new weights into the running engines: written to a folder once, then read by all of them.

The folder must be readable by the engines: on several machines that means a shared file system. What an update of one
engine consists of is `generations.py`'s; that engines which died come back is `fleet.py`'s.
"""

import asyncio
import shutil
from pathlib import Path

from nexrl.errors import NexrlError
from nexrl_trainer.engines import generations
from nexrl_trainer.engines.client import UnreachableError
from nexrl_trainer.engines.fleet import Fleet, Member, Weights
from nexrl_trainer.engines.generations import Updates
from nexrl_trainer.policy.service import TrainService


class Publisher:
    """Publishes weight versions to a fleet; `folder` keeps the newest version alone."""

    def __init__(self, fleet: Fleet, folder: Path, updates: Updates) -> None:
        self._fleet = fleet
        self._folder = folder
        self._updates: Updates = updates

    async def publish(self, policy: TrainService, version: int) -> None:
        """Let every engine sample with the policy's weights as `version`.

        Raises ServiceError where an engine refuses them, does not report the version afterwards, or cannot be reached.
        What one engine refuses, others may have taken: then the run has to end.
        """
        target = self._folder / f"v{version:06d}"
        await asyncio.to_thread(target.mkdir, parents=True, exist_ok=True)
        await policy.publish_weights(target)
        weights = Weights(target.resolve(), version)
        if self._updates == "drained":
            async with self._fleet.door.drained(version):
                await self._bring(weights)
        else:
            await self._bring(weights)
        await asyncio.to_thread(self._forget_all_but, target)

    async def _bring(self, weights: Weights) -> None:
        # Before any engine has them: one that dies from now on begins again with these.
        self._fleet.weights = weights
        try:
            async with asyncio.TaskGroup() as tasks:
                for member in self._fleet.members:
                    tasks.create_task(self._update(member, weights))
        except* NexrlError as errors:
            raise errors.exceptions[0] from None

    async def _update(self, member: Member, weights: Weights) -> None:
        update = generations.update(member.generation, weights.folder, weights.version)
        while True:
            starts = member.starts
            try:
                await member.client.update(update)
            except UnreachableError:
                if not await self._fleet.recovered(member, since=starts):
                    raise
            else:
                member.restarts = 0
                return

    def _forget_all_but(self, newest: Path) -> None:
        for folder in self._folder.iterdir():
            if folder != newest:
                shutil.rmtree(folder)
