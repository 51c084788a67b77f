"""The engines of a run, kept running: who they are, which weights they have, and what happens when one dies.

How an engine is started and where is `services/engines.py`'s part. One that was started for the run is started again,
at its old address and with the newest weights; one that somebody else runs is theirs to bring back.
"""

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, Self

import aiohttp
from msgspec import Struct

from nexrl.errors import ServiceError
from nexrl.keys import ENGINE_KEY_VARIABLE
from nexrl_trainer.engines.client import EngineClient
from nexrl_trainer.engines.door import Door
from nexrl_trainer.engines.generations import Generation, check
from nexrl_trainer.recipe.engine import Engine

RESTARTS = 3
"""Of one engine between two publications: more of the same would end the same way."""
LOOKS, LOOK_EVERY_S = 50, 0.2
"""An engine stops answering seconds before its process has ended."""


class Weights(Struct, frozen=True):
    """What an engine begins with."""

    folder: Path
    """Hugging Face layout."""
    version: int


class Process(Protocol):
    """An engine that was started for the run."""

    name: str

    async def ended(self) -> str | None:
        """Return how it ended, or None while it runs."""
        ...

    async def start(self, weights: Weights) -> str:
        """Start it, once more at the same address, which is returned; raises ServiceError."""
        ...


class Member:
    """One engine of a fleet; `process` is None where somebody else runs it."""

    def __init__(self, client: EngineClient, generation: Generation, process: Process | None) -> None:
        self.name = process.name if process else f"engine {client.url}"
        self.client = client
        self.generation = generation
        self.process = process
        self.restarts = 0
        """Since the last publication."""
        self.starts = 1
        """In all."""
        self.down = False
        self.mending = asyncio.Lock()


class Fleet:
    """The engines of one run; `say` tells people that one was started again."""

    def __init__(self, members: Sequence[Member], weights: Weights, door: Door, say: Callable[[str], None]) -> None:
        self.members = tuple(members)
        self.weights = weights
        self.door = door
        self._say = say

    @classmethod
    async def of(
        cls,
        engines: Mapping[str, Process | None],
        config: Engine,
        weights: Weights,
        *,
        door: Door,
        http: aiohttp.ClientSession,
        say: Callable[[str], None],
    ) -> Self:
        """Return the fleet of engines at these addresses; raises ConfigError for one that cannot be used as said."""
        members: list[Member] = []
        for url, process in engines.items():
            client = EngineClient(url, http, key=None if process else os.environ.get(ENGINE_KEY_VARIABLE))
            generation = await client.generation(config.kind)
            check(generation, config.updates)
            members.append(Member(client, generation, process))
        return cls(members, weights, door, say)

    async def newest_version(self) -> int:
        """Return the newest weight version that an engine reports; 0 where none counts publications."""
        found = await asyncio.gather(*(member.client.version(member.generation.told_at) for member in self.members))
        return max((int(version) for version in found if version.isdecimal()), default=0)

    async def failed(self) -> str | None:
        """Start again what has ended; return why that is no use, if it is not."""
        try:
            await asyncio.gather(*map(self._mended, self.members))
        except ServiceError as error:
            return str(error)
        return None

    async def recovered(self, member: Member, *, since: int) -> bool:
        """Whether an engine that did not answer was started again after it had been started `since` times.

        Raises ServiceError where it ends over and over, or does not start.
        """
        for _ in range(LOOKS):
            await self._mended(member)
            if member.process is None or member.starts > since:
                break
            await asyncio.sleep(LOOK_EVERY_S)
        return member.starts > since

    async def _mended(self, member: Member) -> None:
        async with member.mending:
            if member.process and (how := await member.process.ended()):
                await self._start_again(member, member.process, how)

    async def _start_again(self, member: Member, process: Process, how: str) -> None:
        if member.restarts == RESTARTS:
            raise ServiceError(f"{member.name} ended again, after {RESTARTS} restarts with the same weights: {how}")
        member.restarts += 1
        member.down = True
        self._say(
            f"{member.name} ended ({how.splitlines()[0]}): started again with weights {self.weights.version}, "
            f"restart {member.restarts} of {RESTARTS}"
        )
        if all(one.down for one in self.members):
            # Agents wait at the proxy instead of failing one after the other.
            async with self.door.shut():
                await self._begin(member, process)
        else:
            await self._begin(member, process)

    async def _begin(self, member: Member, process: Process) -> None:
        await process.start(self.weights)
        member.starts += 1
        member.down = False
