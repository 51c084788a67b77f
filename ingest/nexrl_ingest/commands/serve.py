"""`nexrl ingest`: the server as a process that owns its data directory."""

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
from nexrl.keys import admin_key, kept_key_note
from nexrl.service import run_loop, serve_until_stopped
from nexrl_ingest.app import make_app
from nexrl_ingest.forwarding import forwarder as forwarding
from nexrl_ingest.forwarding.forwarder import Forwarder
from nexrl_ingest.forwarding.target import Target, target_of
from nexrl_ingest.sessions.retention import Limits, background, limits_of
from nexrl_ingest.store.choice import open_store

LOCK_FILE = "ingest.lock"
LOCK_PATIENCE_S = 10.0
"""A predecessor that was just told to stop may take this long."""
SHUTDOWN_S = 5.0


def ingest(
    *,
    data: Annotated[Path, typer.Option(help="Directory of the store, or of this replica; made where it is missing.")],
    database: Annotated[
        str | None,
        typer.Option(
            help="postgresql://USER:PASSWORD@HOST:PORT/NAME: keep everything there, shared with other replicas, "
            "instead of in the directory. Give all of them the same NEXRL_ADMIN_KEY.",
            envvar="NEXRL_DATABASE",
            show_envvar=True,
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 4318,
    keep_days: Annotated[
        float | None, typer.Option(help="Forget sessions this many days after their last span; kept by default.")
    ] = None,
    keep_gb: Annotated[
        float | None, typer.Option(help="Forget the oldest sessions once the store is larger; unlimited by default.")
    ] = None,
    forward: Annotated[
        str | None,
        typer.Option(
            help="Send everything on to this OTLP endpoint too, without token ids: Phoenix, Langfuse, Jaeger, a "
            "Collector. Of several replicas one forwards, and another takes over where it dies."
        ),
    ] = None,
    forward_header: Annotated[
        list[str] | None, typer.Option(help="NAME=VALUE to send along, such as 'Authorization=Bearer KEY'; repeatable.")
    ] = None,
    exit_with_parent: Annotated[bool, typer.Option(help="Stop when standard input closes.")] = False,
) -> None:
    """Receive OpenTelemetry spans, keep them durably, and serve trajectories."""
    target = target_of(forward, forward_header or ())
    limits = limits_of(keep_days, keep_gb)
    run_loop(_serve(data, database, host, port, limits, target, exit_with_parent=exit_with_parent))


async def _serve(
    data: Path,
    database: str | None,
    host: str,
    port: int,
    limits: Limits,
    target: Target | None,
    *,
    exit_with_parent: bool,
) -> None:
    with contextlib.ExitStack() as stack:
        key = _prepare(data)
        if note := kept_key_note(data):
            typer.echo(f"nexrl ingest: {note}", err=True)
        stack.enter_context(_sole_owner(data))
        store = open_store(data, database)
        stack.callback(store.close)
        app = make_app(store=store, admin_key=key)
        app.cleanup_ctx.append(background(store, limits))
        if target:
            settled_s = forwarding.SHARED_SETTLED_S if database else 0.0
            app.cleanup_ctx.append(forwarding.background(Forwarder(store, target, settled_s=settled_s)))
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=SHUTDOWN_S)
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
