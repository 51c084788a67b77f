"""`nexrl proxy`: put the proxy together from its flags and serve it until it is told to stop."""

import asyncio
import contextlib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import aiohttp
import typer
from aiohttp import web

from nexrl.errors import ConfigError, NexrlError
from nexrl.keys import admin_key
from nexrl.service import serve_until_stopped
from nexrl_proxy.app import Access, make_app
from nexrl_proxy.conversation import Sessions
from nexrl_proxy.engine import EngineClient, engine_session
from nexrl_proxy.parsers.choose import Parsers
from nexrl_proxy.recorder import Recorder
from nexrl_proxy.render import Renderer, template_of
from nexrl_proxy.sampling import Sampler
from nexrl_proxy.spool import Spool

if TYPE_CHECKING:
    from collections.abc import Mapping

SHUTDOWN_TIMEOUT_S = 1.0


def proxy(
    engine: Annotated[str, typer.Option(help="The engine's base URL, http://HOST:PORT.")],
    model: Annotated[
        Path, typer.Option(help="Model directory: tokenizer.json, chat template, config.json; no weights needed.")
    ],
    ingest: Annotated[str, typer.Option(help="Where spans go: the base URL of `nexrl ingest`.")],
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    engine_kind: Annotated[
        str, typer.Option(help="What serves there: sglang, or the embedded engine, which speaks the same.")
    ] = "sglang",
    data: Annotated[Path, typer.Option(help="Directory for spans not yet delivered, and for the admin key.")] = Path(
        "nexrl-proxy"
    ),
    tool_parser: Annotated[str, typer.Option(help="auto (from the chat template), hermes, or none.")] = "auto",
    reasoning_parser: Annotated[str, typer.Option(help="none, or think (<think>...</think>).")] = "none",
    require_session: Annotated[
        bool, typer.Option("--require-session", help="Refuse calls that name no attempt (401).")
    ] = False,
    served_model: Annotated[
        str | None, typer.Option(help="Name listed by /v1/models. [default: the model directory's name]")
    ] = None,
    exit_with_parent: Annotated[
        bool, typer.Option("--exit-with-parent", help="Stop when standard input closes.")
    ] = False,
) -> None:
    """Serve the OpenAI API in front of an engine, and record every call exactly as the engine saw it.

    Agents use http://HOST:PORT/v1 with an attempt key (`nexrl key ATTEMPT`), or http://HOST:PORT/s/ATTEMPT/v1.
    """
    try:
        check_engine(engine, engine_kind)
        parsers = Parsers(tools=tool_parser, reasoning=reasoning_parser, template=template_of(model))
        renderer = Renderer(model, markers=parsers.markers)
        access = Access(admin_key(data), require_session)
        name = served_model or model.resolve().name
        asyncio.run(
            serve(
                engine=engine,
                ingest=ingest,
                renderer=renderer,
                parsers=parsers,
                access=access,
                data=data,
                model=name,
                at=(host, port),
                exit_with_parent=exit_with_parent,
            )
        )
    except NexrlError as error:
        typer.echo(f"nexrl proxy: {error}", err=True)
        raise typer.Exit(2) from error


async def serve(
    *,
    engine: str,
    ingest: str,
    renderer: Renderer,
    parsers: Parsers,
    access: Access,
    data: Path,
    model: str,
    at: tuple[str, int],
    exit_with_parent: bool,
) -> None:
    """Serve until the process is asked to stop."""
    async with contextlib.AsyncExitStack() as stack:
        recorder = Recorder(
            Spool(data / "spool"),
            ingest=ingest,
            admin_key=access.admin_key,
            http=await stack.enter_async_context(aiohttp.ClientSession()),
        )
        sampler = Sampler(
            engine=EngineClient(engine, await stack.enter_async_context(engine_session())),
            renderer=renderer,
            parsers=parsers,
            recorder=recorder,
            sessions=Sessions(),
        )
        runner = runner_of(make_app(sampler=sampler, recorder=recorder, access=access, model=model))
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        port = await listen(runner, *at)
        await serve_until_stopped(at[0], port, exit_with_parent=exit_with_parent)


def runner_of(app: web.Application) -> web.AppRunner:
    """Return the server: it cancels a handler whose client has gone, which is how an abandoned request ends."""
    return web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_TIMEOUT_S)


async def listen(runner: web.AppRunner, host: str, port: int) -> int:
    """Start listening and return the port; raises ConfigError where that is not possible."""
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise ConfigError(f"--host {host} --port {port}: {error.strerror}; choose another port, or 0") from error
    return runner.addresses[0][1]


def check_engine(url: str, kind: str) -> None:
    """Raise ConfigError for an engine that is not supported."""
    known: Mapping[str, str] = {"vllm": "not supported yet", "openai": "not supported yet"}
    if kind != "sglang":
        raise ConfigError(f"--engine-kind {kind}: {known.get(kind, 'unknown')}; use sglang")
    if "," in url:
        raise ConfigError(f"--engine {url}: several engines are not supported yet; give one URL")
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--engine {url}: give a URL like http://127.0.0.1:30000")
