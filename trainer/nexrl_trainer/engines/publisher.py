"""Bring new weights into the running engines: written to a folder once, then read by all of them, or sent to them.

A folder that engines read must be readable by them: on several machines that means a shared file system. What an update
of one engine consists of is `generations.py`'s; that engines which died come back is `fleet.py`'s. What needs torch is
imported where it is used: that takes seconds, and a run can begin without.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from nexrl.errors import NexrlError
from nexrl_trainer.engines import generations
from nexrl_trainer.engines.broadcast import Broadcast
from nexrl_trainer.engines.client import EngineClient, UnreachableError
from nexrl_trainer.engines.colocation import Colocation, Phase
from nexrl_trainer.engines.fleet import Fleet, Member, Weights
from nexrl_trainer.engines.generations import Generation, Update
from nexrl_trainer.policy.service import TrainService
from nexrl_trainer.recipe.engine import Engine

Act = Callable[[EngineClient, Generation], Awaitable[None]]


class Publisher:
    """Publishes weight versions to a fleet; `folder` keeps the newest version alone.

    With `adapters` what is published is an adapter, which the engine merges into the model that it was trained on. With
    `broadcast` that is how the weights travel.
    """

    def __init__(
        self,
        fleet: Fleet,
        folder: Path,
        config: Engine,
        *,
        adapters: bool = False,
        broadcast: Broadcast | None = None,
    ) -> None:
        self._fleet = fleet
        self._folder = folder
        self._config = config
        self._adapters = adapters
        self._broadcast = broadcast
        self._colocation = Colocation(fleet) if config.colocated else None

    async def give_way(self) -> None:
        """Give the trainer the memory of engines that share its GPU, until the next publication.

        Does nothing where they have a GPU of their own.
        """
        if self._colocation:
            await self._colocation.release()

    @property
    def gave_way(self) -> bool:
        """Whether nobody can sample before the next publication, be it of the same weights."""
        return self._colocation is not None and self._colocation.phase is not Phase.SERVING

    async def publish(self, policy: TrainService, version: int) -> None:
        """Let every engine sample with the policy's weights as `version`.

        Raises ServiceError where an engine refuses them, does not report the version afterwards, or cannot be reached.
        What one engine refuses, others may have taken: then the run has to end.
        """
        target = self._folder / f"v{version:06d}"
        await asyncio.to_thread(target.mkdir, parents=True, exist_ok=True)
        await (policy.publish_adapter(target) if self._adapters else policy.publish_weights(target))
        weights = Weights(target.resolve(), version)
        if self._colocation and self.gave_way:
            await self._colocation.take_back_weights()
            await self._bring(weights)
            self._fleet.door.version = version
            await self._colocation.take_back_cache()
        elif self._config.updates == "drained":
            async with self._fleet.door.drained():
                await self._bring(weights)
                self._fleet.door.version = version
        else:
            await self._bring(weights)
        await asyncio.to_thread(self._forget_all_but, target)

    async def _bring(self, weights: Weights) -> None:
        # Before any engine has them: one that dies from now on begins again with these.
        self._fleet.weights = weights
        if self._broadcast:
            await self._broadcast.bring(weights)
        else:
            await self._each(lambda client, generation: client.update(self._update(generation, weights)))
        if self._config.verify:
            await self._verify(weights)
        for member in self._fleet.members:
            member.restarts = 0

    async def _verify(self, weights: Weights) -> None:
        from nexrl_trainer.engines.verification import Published, verify

        published = await asyncio.to_thread(Published, weights.folder)

        async def compare(client: EngineClient, _: Generation) -> None:
            held = await client.checksums()
            await asyncio.to_thread(verify, f"engine {client.url}", weights.version, published, held)

        await self._each(compare)

    async def _each(self, act: Act) -> None:
        """Do something with every engine at the same time; raises what goes wrong first."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for member in self._fleet.members:
                    tasks.create_task(self._with(member, act))
        except* NexrlError as errors:
            raise errors.exceptions[0] from None

    async def _with(self, member: Member, act: Act) -> None:
        while True:
            starts = member.starts
            try:
                await act(member.client, member.generation)
            except UnreachableError:
                if not await self._fleet.recovered(member, since=starts):
                    raise
            else:
                return

    def _update(self, generation: Generation, weights: Weights) -> Update:
        if self._config.publication == "tensors":
            from nexrl_trainer.engines.tensors import buckets

            return generations.from_tensors(generation, buckets(weights.folder), weights.version)
        return generations.from_folder(generation, weights.folder, weights.version)

    def _forget_all_but(self, newest: Path) -> None:
        for folder in self._folder.glob("v*"):
            if folder != newest:
                shutil.rmtree(folder)
