"""Several engines as one: where sessions live, who is healthy, and a door that can be held shut while weights change.

Who takes a request is `balance`'s decision. Requests wait at a held door without a limit of their own, because a client
that is told to come back later gives up after a few tries. Counts are of this process.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

from nexrl_proxy.engines import Engine, EngineLost
from nexrl_proxy.engines.balance import Load, choose

MOST_SESSIONS = 65536
CHECK_EVERY_S = 2.0
FAILURES_UNTIL_OUT = 2
_log = logging.getLogger(__name__)


class Pool:
    """Use `start` and `stop` around its life; everything else may be called by many requests at a time."""

    def __init__(
        self, engines: Sequence[Engine], *, most_sessions: int = MOST_SESSIONS, check_every_s: float = CHECK_EVERY_S
    ) -> None:
        assert engines
        self.engines = tuple(engines)
        self._loads = [Load() for _ in engines]
        self._failures = [0] * len(engines)
        self._homes: OrderedDict[str, int] = OrderedDict()
        self._most_sessions = most_sessions
        self._check_every_s = check_every_s
        self._open = asyncio.Event()
        self._open.set()
        self._changed = asyncio.Event()
        self._doubted = asyncio.Event()
        self._waiting = 0
        self._checks: asyncio.Task[None] | None = None

    @property
    def renders(self) -> bool:
        """Whether the engines take messages instead of token ids; all are of one kind."""
        return self.engines[0].renders

    def start(self) -> None:
        """Begin to check the engines' health."""
        self._checks = asyncio.create_task(self._check_for_ever())

    async def stop(self) -> None:
        """Stop checking, and close idle connections."""
        if self._checks:
            self._checks.cancel()
            await asyncio.wait([self._checks])
        for engine in self.engines:
            await engine.close()

    def seat(self, session: str) -> "Seat":
        """Lend the session's engine for one request; waits while the pool is held.

        An EngineLost that passes through takes the engine out until it answers again.
        """
        return Seat(self, session)

    async def take(self, session: str) -> int:
        """Return which engine the session's next request has, once the pool is not held; `leave` must follow."""
        await self._opened()
        index = self._settle(session)
        self._loads[index].running += 1
        return index

    def leave(self, index: int, *, lost: bool) -> None:
        """End a request; where it `lost` its engine, that is asked whether it is well."""
        if lost:
            self._doubt(index)
        self._loads[index].running -= 1
        self._changed.set()

    def forget(self, session: str) -> None:
        """Let go of a session that is over."""
        if (home := self._homes.pop(session, None)) is not None:
            self._loads[home].sessions -= 1

    def hold(self) -> None:
        """Let new requests wait from now on; those that run go on."""
        self._open.clear()

    def release(self, *, weight_version: int | None = None) -> None:
        """Let them in again; `weight_version` is told to engines that do not know theirs."""
        for engine in self.engines:
            if weight_version is not None:
                engine.adopt(weight_version)
        self._open.set()

    async def drain(self, timeout_s: float) -> bool:
        """Return once nothing runs: whether that came within the time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while self.running:
                    self._changed.clear()
                    await self._changed.wait()
        return not self.running

    @property
    def running(self) -> int:
        """Requests at all engines together."""
        return sum(load.running for load in self._loads)

    def describe(self) -> dict[str, Any]:
        """Return the state for people and for `/api/stats`."""
        engines = [
            {"url": engine.url, "healthy": load.healthy, "running": load.running, "sessions": load.sessions}
            for engine, load in zip(self.engines, self._loads, strict=True)
        ]
        return {"held": not self._open.is_set(), "waiting": self._waiting, "engines": engines}

    async def _opened(self) -> None:
        if self._open.is_set():
            return
        self._waiting += 1
        try:
            while not self._open.is_set():  # it may have been held again before this task's turn came
                await self._open.wait()
        finally:
            self._waiting -= 1

    def _settle(self, session: str) -> int:
        """Return where the session's next request goes, and let it live there."""
        home = self._homes.get(session)
        index = choose(self._loads, home)
        if home != index:
            self.forget(session)
            self._homes[session] = index
            self._loads[index].sessions += 1
            if len(self._homes) > self._most_sessions:
                self.forget(next(iter(self._homes)))
        self._homes.move_to_end(session)
        return index

    def _doubt(self, index: int) -> None:
        """Let nobody go where a request was lost until that engine has answered a check, which happens now."""
        self._note(index, healthy=False)
        self._failures[index] = FAILURES_UNTIL_OUT
        self._doubted.set()

    async def _check_for_ever(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._check_every_s):
                    await self._doubted.wait()
            self._doubted.clear()
            await asyncio.gather(*(self._check(index) for index in range(len(self.engines)) if self._worth(index)))

    def _worth(self, index: int) -> bool:
        """Whether to ask an engine: an upstream without a neighbour is somebody's paid service, asked if in doubt."""
        return not (self.renders and len(self.engines) == 1) or self._failures[index] > 0

    async def _check(self, index: int) -> None:
        """Take an engine out after two silent checks, as one busy moment should move no session; back in after one."""
        failures = 0 if await self.engines[index].healthy() else self._failures[index] + 1
        self._failures[index] = failures
        self._note(index, healthy=failures < FAILURES_UNTIL_OUT)

    def _note(self, index: int, *, healthy: bool) -> None:
        load = self._loads[index]
        if load.healthy != healthy:
            what = "answers again" if healthy else "does not answer: it gets no requests until it does"
            _log.warning("engine %s %s", self.engines[index].url, what)
        load.healthy = healthy


class Seat:
    """One request's place at an engine, as an asynchronous context. Not a generator: those cost each call much more."""

    def __init__(self, pool: Pool, session: str) -> None:
        self._pool = pool
        self._session = session
        self._index = -1

    async def __aenter__(self) -> Engine:
        self._index = await self._pool.take(self._session)
        return self._pool.engines[self._index]

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._pool.leave(self._index, lost=kind is not None and issubclass(kind, EngineLost))
