"""The proxy's door: shut while nothing may be asked of the engines, for as long as anybody needs that."""

import contextlib
from collections.abc import AsyncGenerator

from nexrl.errors import ServiceError
from nexrl_trainer.rollouts.proxy import ProxyClient

DRAIN_S = 900.0


class Door:
    """Shut while anybody holds it; requests that arrive then wait."""

    def __init__(self, proxy: ProxyClient, *, drain_s: float = DRAIN_S) -> None:
        self._proxy = proxy
        self._drain_s = drain_s
        self._holders = 0
        self.version: int | None = None
        """What the engines sample with since the last update that nothing ran under: the proxy is told."""

    @contextlib.asynccontextmanager
    async def shut(self) -> AsyncGenerator[None]:
        """Let new requests wait inside the block; those that run go on."""
        async with self._held():
            await self._proxy.hold()
            yield

    @contextlib.asynccontextmanager
    async def drained(self) -> AsyncGenerator[None]:
        """Let new requests wait, and enter once none runs; who changes the weights inside says so in `version`.

        Raises ServiceError where something still runs when its time is over.
        """
        async with self._held():
            if running := await self._proxy.hold(drain_s=self._drain_s):
                raise ServiceError(
                    f"engine.updates=drained: {running} requests still run after {self._drain_s:g} s; bound them by "
                    "proxy.sampling.train.force.max_new_tokens, or set engine.updates=in_flight"
                )
            yield

    @contextlib.asynccontextmanager
    async def _held(self) -> AsyncGenerator[None]:
        self._holders += 1
        try:
            yield
        finally:
            self._holders -= 1
            if not self._holders:
                await self._proxy.release(self.version)
