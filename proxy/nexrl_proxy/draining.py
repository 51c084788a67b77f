"""The end of a proxy that is asked to stop: it accepts nobody any more, and what runs is answered to its end.

Who asks, and who insists, is `serve`'s and the workers' business. Spans that ingest has not taken by then stay on disk.
"""

import asyncio

from aiohttp import web

from nexrl_proxy.listening import connections_of

DRAIN_S = 30.0
LOOK_EVERY_S = 0.02


async def drained(runner: web.AppRunner, within_s: float, hurried: asyncio.Event) -> bool:
    """Close the port, then every connection once its request is answered; returns whether all were, in time.

    Returns at once where `hurried` is set.
    """
    for site in list(runner.sites):
        await site.stop()
    until = asyncio.get_running_loop().time() + within_s
    while connections := connections_of(runner):
        if hurried.is_set() or asyncio.get_running_loop().time() >= until:
            return False
        for connection in connections:  # each time: some were accepted last, or brought by another worker
            connection.retire()
        await asyncio.sleep(LOOK_EVERY_S)  # the server tells nobody when a connection ends
    return True
