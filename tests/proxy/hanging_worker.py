"""A supervisor of one worker, whose first life stops to turn its event loop: `python hanging_worker.py`."""

import asyncio
import os
import sys
import time

from nexrl_proxy.workers.supervisor import READY, Place, Supervisor
from nexrl_proxy.workers.worker import beats


def work(place: Place) -> None:
    asyncio.run(serve(place))


async def serve(place: Place) -> None:
    os.write(place.report, READY)
    beating = asyncio.create_task(beats(place))
    await asyncio.sleep(0)
    sys.stdout.write(f"serves {os.getpid()}\n")
    sys.stdout.flush()
    if first:
        time.sleep(600)  # noqa: ASYNC251 - hanging is what this is about
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_reader(place.lifeline, stopped.set)
    await stopped.wait()
    beating.cancel()


def began() -> None:
    """Be told that the first worker serves; those that come later are forks of a process that knows."""
    global first  # noqa: PLW0603
    first = False


first = True
sys.exit(Supervisor(1, work, announce=began, listeners=(), drain_s=0, hung_s=4).run(exit_with_parent=True))
