"""`nexrl ingest`: the server as a process that owns its data directory."""

import asyncio
import contextlib
import fcntl
import os
import time
from collections.abc import Generator
from pathlib import Path
from typing import Annotated

import typer
from aiohttp import web

from nexrl.errors import ConfigError
from nexrl.keys import admin_key
from nexrl.service import serve_until_stopped
from nexrl_ingest.app import make_app
from nexrl_ingest.store import Store

LOCK_FILE = "ingest.lock"
LOCK_PATIENCE_S = 10.0
"""A predecessor that was just told to stop may take this long."""
SHUTDOWN_S = 5.0


def ingest(
    *,
    data: Annotated[Path, typer.Option(help="Directory of the store; made where it is missing.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 4318,
    exit_with_parent: Annotated[bool, typer.Option(help="Stop when standard input closes.")] = False,
) -> None:
    """Receive OpenTelemetry spans, keep them durably, and serve trajectories."""
    asyncio.run(_serve(data, host, port, exit_with_parent=exit_with_parent))


async def _serve(data: Path, host: str, port: int, *, exit_with_parent: bool) -> None:
    with contextlib.ExitStack() as stack:
        key = _prepare(data)
        stack.enter_context(_sole_owner(data))
        store = Store(data)
        stack.callback(store.close)
        runner = web.AppRunner(make_app(store=store, admin_key=key), access_log=None, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        try:
            bound = await _listen(runner, host, port)
            await serve_until_stopped(host, bound, exit_with_parent=exit_with_parent)
        finally:
            await runner.cleanup()


async def _listen(runner: web.AppRunner, host: str, port: int) -> int:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}:{port}: {error}; use another --port, or 0 for a free one"
        ) from error
    return runner.addresses[0][1]


def _prepare(data: Path) -> str:
    """Make the data directory; return the admin key."""
    try:
        data.mkdir(parents=True, exist_ok=True)
        return admin_key(data)
    except OSError as error:
        raise ConfigError(f"data directory {data}: {error}; give a directory that can be written") from error


@contextlib.contextmanager
def _sole_owner(data: Path) -> Generator[None]:
    """Hold the directory's lock; the kernel frees it when the process ends, however it ends."""
    with (data / LOCK_FILE).open("a+") as file:
        deadline = time.monotonic() + LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    file.seek(0)
                    owner = file.read().strip() or "unknown"
                    raise ConfigError(f"{data} is in use by process {owner}: stop it or use another --data") from error
                time.sleep(0.05)
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
