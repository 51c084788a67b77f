"""What every service process does around its server: announce itself, and stop when told to.

A service prints `ready http://HOST:PORT` on standard output, and ends on SIGTERM, on SIGINT, or, when it was started
with `exit_with_parent`, when its standard input closes: then no crash of the parent leaves it behind.
"""

import asyncio
import contextlib
import signal
import sys


async def serve_until_stopped(host: str, port: int, *, exit_with_parent: bool = False) -> None:
    """Announce the address, and return once the process is asked to stop."""
    stopped = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    # Only now: whoever reads this line may ask us to stop at once.
    announce(host, port)
    watcher = asyncio.create_task(_end_of_input(stopped)) if exit_with_parent else None
    await stopped.wait()
    if watcher:
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher


def announce(host: str, port: int) -> None:
    """Tell whoever started us where we serve."""
    shown = f"[{host}]" if ":" in host else host
    sys.stdout.write(f"ready http://{shown}:{port}\n")
    sys.stdout.flush()


async def _end_of_input(stopped: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while await reader.read(1024):
            pass
        stopped.set()
    finally:
        transport.close()
