"""The pools of all models whose weights change, as one: held, drained and released together."""

import asyncio
from collections.abc import Sequence
from typing import Any

from nexrl_proxy.engines.pool import Pool


class Pools:
    """One pool or several, each for another model."""

    def __init__(self, pools: Sequence[Pool]) -> None:
        assert pools
        self._pools = tuple(pools)

    def hold(self) -> None:
        """Let new requests wait from now on; those that run go on."""
        for pool in self._pools:
            pool.hold()

    def release(self, *, weight_version: int | None = None) -> None:
        """Let them in again; `weight_version` is told to engines that do not know theirs."""
        for pool in self._pools:
            pool.release(weight_version=weight_version)

    async def drain(self, timeout_s: float) -> bool:
        """Return once nothing runs: whether that came within the time."""
        return all(await asyncio.gather(*(pool.drain(timeout_s) for pool in self._pools)))

    @property
    def running(self) -> int:
        """Requests at all engines together."""
        return sum(pool.running for pool in self._pools)

    def describe(self) -> dict[str, Any]:
        """Return the state for people and for `/api/stats`: as of one pool with the engines of all."""
        told = [pool.describe() for pool in self._pools]
        return {
            "held": any(one["held"] for one in told),
            "waiting": sum(one["waiting"] for one in told),
            "engines": [engine for one in told for engine in one["engines"]],
        }
