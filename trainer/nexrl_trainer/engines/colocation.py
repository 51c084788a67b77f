"""Engines on the trainer's own GPU: their memory is the trainer's while it trains. SGLang's memory saver does the work.

    serving -> released -> loading -> serving

What an engine held is lost: released weights come back as memory without content, so that a publication has to follow.
An engine that died meanwhile began again by itself with all its memory, and is left alone.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from enum import Enum

from nexrl_trainer.engines.client import EngineClient, UnreachableError
from nexrl_trainer.engines.fleet import Fleet, Member

WEIGHTS, CACHE = "weights", "kv_cache"
GRAPHS = "cuda_graph"
"""Belongs to the weights: graphs read them where they lie."""


class Phase(Enum):
    SERVING = "serving"
    RELEASED = "released"
    LOADING = "loading"


class Colocation:
    """The engines' memory, given to the trainer and taken back; requests wait at the door meanwhile."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._door = AsyncExitStack()
        self._released: dict[Member, int] = {}
        """Those that gave their memory away, and how often they had been started then."""
        self.phase = Phase.SERVING

    async def release(self) -> None:
        """Let what runs end, and give all memory away; whoever asks afterwards waits for the next weights.

        Raises ServiceError where something still runs after a while, and then nothing was given away.
        """
        self._expect(Phase.SERVING)
        await self._door.enter_async_context(self._fleet.door.drained())
        self._released = {member: member.starts for member in self._fleet.members}
        self.phase = Phase.RELEASED
        await self._ask(lambda client: client.release_memory())

    async def take_back_weights(self) -> None:
        """Take back what weights are loaded into."""
        self._expect(Phase.RELEASED)
        await self._resume([WEIGHTS, GRAPHS])
        self.phase = Phase.LOADING

    async def take_back_cache(self) -> None:
        """Take back the rest, now that there are weights, and let requests come."""
        self._expect(Phase.LOADING)
        await self._resume([CACHE])
        self.phase = Phase.SERVING
        await self._door.aclose()

    async def _resume(self, tags: list[str]) -> None:
        await self._ask(lambda client: client.resume_memory(tags))

    async def _ask(self, act: Callable[[EngineClient], Awaitable[None]]) -> None:
        """Do something with every engine that has not begun again since its memory was given away."""

        async def ask(member: Member, starts: int) -> None:
            try:
                await act(member.client)
            except UnreachableError:
                if not await self._fleet.recovered(member, since=starts):
                    raise

        still = [(member, starts) for member, starts in self._released.items() if member.starts == starts]
        await asyncio.gather(*(ask(*one) for one in still))

    def _expect(self, phase: Phase) -> None:
        assert self.phase is phase, f"engines are {self.phase.value}, not {phase.value}"
