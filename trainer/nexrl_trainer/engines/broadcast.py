"""Send weights to all engines at once, through one process group: the trainer is rank 0, SGLang's ranks are the others.

Everybody waits for everybody there, so whoever fails lets all of them wait. Then the group is given up: the sender's
process is ended and the engines leave, which ends what they wait for. An engine that was started again since begins
with the newest weights, and a new group is made. What an update of one engine consists of is `generations.py`'s.
"""

import asyncio
import contextlib
import itertools
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from msgspec import Struct

from nexrl_trainer.engines import generations
from nexrl_trainer.engines.client import UnreachableError
from nexrl_trainer.engines.fleet import Fleet, Member, Weights
from nexrl_trainer.engines.generations import Backend, Group
from nexrl_trainer.engines.layout import Portion, portions

COMING_S = 2.0
"""Engines that were asked to join do within this time; one that came when nobody listens would look for us for half an
hour."""
ENDING_S = 60.0
"""Engines notice within seconds that a group is over, where its machines still answer."""


class Sender(Protocol):
    """Rank 0, in a process of its own: `sending.GroupSender`, awaited. Raises ServiceError where engines are lost."""

    async def open(self, engines: Sequence[str]) -> tuple[str, int]: ...

    async def join(self, group: Group) -> None: ...

    async def send(self, portions: Sequence[Portion]) -> None: ...

    async def end(self) -> None:
        """End the process, whatever it waits for."""
        ...


class _StartedAgainError(Exception):
    """An engine that failed is back: everybody has to begin anew."""


class _Joined(Struct):
    group: Group
    sender: Sender
    starts: tuple[int, ...]
    """How often each engine had been started then."""
    version: int
    """What the engines had last."""


class Broadcast:
    """Brings weights to a fleet; `start` starts a sender. Raises ConfigError for engines that no group can have."""

    def __init__(self, fleet: Fleet, start: Callable[[], Sender]) -> None:
        self._fleet = fleet
        self._start = start
        self._backend: Backend = generations.group_backend([member.generation for member in fleet.members])
        self._joined: _Joined | None = None

    async def bring(self, weights: Weights) -> None:
        """Let every engine sample with these weights; those of a version that breaks off are paused until a whole one.

        Raises ServiceError where an engine refuses, or is lost and nobody can start it again.
        """
        travelling = await asyncio.to_thread(portions, weights.folder)
        while True:
            with contextlib.suppress(_StartedAgainError):
                return await self._bring(weights, travelling)

    async def close(self) -> None:
        """Give the group up."""
        await self._give_up()

    async def _give_up(self, doing: Sequence["asyncio.Future[None]"] = ()) -> None:
        """End the sender, and let each engine leave after what it is doing; that ends once who it waits for is gone."""
        joined, self._joined = self._joined, None
        if joined is None:
            return
        await joined.sender.end()
        busy = dict(zip(self._fleet.members, doing, strict=False))

        async def leave(member: Member) -> None:
            # Asked for a group that it has left, SGLang 0.5.13 ends.
            if member in busy:
                await asyncio.wait({busy[member]})
            await member.client.leave(joined.group)

        leaving = [asyncio.ensure_future(leave(member)) for member in self._fleet.members]
        await asyncio.wait(leaving, timeout=ENDING_S)
        await _ended(leaving)

    async def _bring(self, weights: Weights, travelling: Sequence[Portion]) -> None:
        joined = await self._group()
        updates = [
            member.client.update(
                generations.from_group(member.generation, joined.group, travelling, weights.version),
            )
            for member in self._fleet.members
        ]
        await self._together(updates, joined.sender.send(travelling))
        joined.version = weights.version

    async def _group(self) -> _Joined:
        if self._joined and await self._lasts(self._joined):
            return self._joined
        await self.close()
        self._joined = joined = await self._opened()
        members = self._fleet.members
        # Rank 0 is ours; the last sum is the group's size.
        offsets = itertools.accumulate((member.generation.ranks for member in members), initial=1)
        joining = [member.client.join(joined.group, offset) for member, offset in zip(members, offsets, strict=False)]
        await self._together(joining, joined.sender.join(joined.group), others_s=COMING_S)
        return joined

    async def _opened(self) -> _Joined:
        """Return a group that nobody has joined."""
        sender = self._start()
        try:
            host, port = await sender.open([member.client.url for member in self._fleet.members])
        except BaseException:
            await sender.end()
            raise
        size = 1 + sum(member.generation.ranks for member in self._fleet.members)
        name = f"nexrl-{secrets.token_hex(4)}"
        group = Group(name=name, backend=self._backend, host=host, port=port, size=size)
        return _Joined(group, sender, self._starts(), -1)

    async def _lasts(self, joined: _Joined) -> bool:
        """Whether nobody has been started again, by us or by its owner, which shows in the version that it reports."""
        if joined.starts != self._starts():
            return False
        try:
            asked = (member.client.version(member.generation.told_at) for member in self._fleet.members)
            return set(await asyncio.gather(*asked)) == {str(joined.version)}
        except UnreachableError:
            return False

    def _starts(self) -> tuple[int, ...]:
        return tuple(member.starts for member in self._fleet.members)

    async def _together(
        self, engines: Sequence[Awaitable[None]], own: Awaitable[None], *, others_s: float = 0.0
    ) -> None:
        """Do what each engine and the sender can only do at the same time; after a failure others have so much time.

        Raises what went wrong first, the group being over then, or _StartedAgainError.
        """
        starts = self._starts()
        tasks = [asyncio.ensure_future(act) for act in (*engines, own)]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            first = next(filter(None, map(_error, tasks)), None)
            if first is None:
                return
            await asyncio.wait(tasks, timeout=others_s)
            await self._give_up(tasks[:-1])
            await asyncio.wait(tasks, timeout=ENDING_S)
        except asyncio.CancelledError:
            await self._give_up(tasks[:-1])
            raise
        finally:
            await _ended(tasks)
        await self._recover(tasks[:-1], starts)
        raise first

    async def _recover(self, engines: Sequence["asyncio.Future[None]"], starts: Sequence[int]) -> None:
        """Raise _StartedAgainError if every engine that was lost is back, UnreachableError if one is not."""
        back = False
        for member, task, since in zip(self._fleet.members, engines, starts, strict=True):
            if isinstance(error := _error(task), UnreachableError):
                if not await self._fleet.recovered(member, since=since):
                    raise error
                back = True
        if back:
            raise _StartedAgainError


def _error(task: "asyncio.Future[None]") -> BaseException | None:
    """Return what a task raised; None while it runs, and where it was cancelled."""
    return task.exception() if task.done() and not task.cancelled() else None


async def _ended(tasks: Sequence["asyncio.Future[None]"]) -> None:
    """Cancel what still runs, and wait for it; what it raises is known or of no interest."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
