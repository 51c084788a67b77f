"""Await several things at once: all of them, or one as long as another does not fail."""

import asyncio
from typing import Any


async def everything(*awaitables: Any) -> list[Any]:
    """Await all; the first failure cancels the rest and is raised as itself."""
    tasks = [asyncio.ensure_future(item) for item in awaitables]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def unless(failure: Any, work: Any) -> Any:
    """Return what `work` returns, unless `failure` returns an error first, which is then raised."""
    watcher, worker = asyncio.ensure_future(failure), asyncio.ensure_future(work)
    try:
        await asyncio.wait({watcher, worker}, return_when=asyncio.FIRST_COMPLETED)
        if worker.done():
            return worker.result()
        raise watcher.result()
    finally:
        for task in (watcher, worker):
            task.cancel()
        await asyncio.gather(watcher, worker, return_exceptions=True)
