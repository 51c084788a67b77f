"""Processes that an agent started and that left its process group: found by what they inherited, and killed.

Every process carries in its environment whose it is (`ATTEMPT_VARIABLE`), daemons with a session of their own too;
/proc shows it. Neither of the kernel's ways does as well: a child subreaper is told of orphans alone and not whose they
were, a control group needs somebody who may make one. Who clears the environment as well is not found. Linux only:
elsewhere the process group is all that is killed.

A look through /proc takes milliseconds, so those who ask at the same time share one, and it never takes more than a
fifth of a core.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Collection

from nexrl_trainer.rollouts.runners.environment import ATTEMPT_VARIABLE

REST = 4
"""Times as long as a look took, before the next one."""
LOOKS = 5
"""At most: a process may fork while we look."""
_MARK = f"{ATTEMPT_VARIABLE}=".encode()


class Survivors:
    """Kills what is left of attempts; used by one event loop."""

    def __init__(self) -> None:
        self._asked: dict[str, asyncio.Future[None]] = {}
        self._looking: asyncio.Task[None] | None = None

    async def kill(self, attempt: str) -> None:
        """Kill every process that carries this attempt, and return once none is left."""
        done = self._asked.setdefault(attempt, asyncio.get_running_loop().create_future())
        if self._looking is None:
            self._looking = asyncio.create_task(self._look())
        await asyncio.shield(done)

    async def close(self) -> None:
        if self._looking:
            await self._looking

    async def _look(self) -> None:
        while self._asked:
            asked, self._asked = self._asked, {}
            began = time.monotonic()
            await asyncio.to_thread(kill_all, asked)
            for done in asked.values():
                done.set_result(None)
            if self._asked:
                await asyncio.sleep(REST * (time.monotonic() - began))
        self._looking = None


def kill_all(attempts: Collection[str]) -> None:
    """Kill what carries one of these attempts, and what that forks meanwhile."""
    for _ in range(LOOKS):
        found = [pid for pid, attempt in carriers() if attempt in attempts]
        if not found:
            return
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)


def carriers() -> list[tuple[int, str]]:
    """Return the processes that carry an attempt, and which; none where there is no /proc."""
    if sys.platform != "linux":
        return []
    found: list[tuple[int, str]] = []
    for name in os.listdir("/proc"):  # noqa: PTH208 - pathlib takes ten times as long
        if name.isdigit():
            attempt = _attempt_of(name)
            if attempt:
                found.append((int(name), attempt))
    return found


def _attempt_of(pid: str) -> str | None:
    try:
        descriptor = os.open(f"/proc/{pid}/environ", os.O_RDONLY)
    except OSError:  # gone meanwhile, or somebody else's
        return None
    try:
        environment = os.read(descriptor, 1 << 17)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    start = environment.find(_MARK)
    if start < 0 or (start and environment[start - 1]):
        return None
    return environment[start + len(_MARK) :].partition(b"\0")[0].decode(errors="replace")
