"""`nexrl proxy`: put the proxy together from its flags and serve it until it is told to stop."""

import contextlib
import ipaddress
import os
from pathlib import Path

import aiohttp
import msgspec
import typer
from aiohttp import web

from nexrl.errors import ConfigError, NexrlError
from nexrl.keys import ENGINE_KEY_VARIABLE, admin_key, kept_key_note
from nexrl.service import allow_many_files, announce, run_loop, stopping
from nexrl_proxy import flags
from nexrl_proxy.deployment import Readings, Settings, app_of, readings_of
from nexrl_proxy.draining import DRAIN_S, drained
from nexrl_proxy.engines.kinds import Serving
from nexrl_proxy.leftovers import bring_in, spool_names
from nexrl_proxy.limits import BODY_MB
from nexrl_proxy.listening import listen, runner_of
from nexrl_proxy.models import read_others
from nexrl_proxy.operating import Access
from nexrl_proxy.policies import read_policies
from nexrl_proxy.policy import policy_of
from nexrl_proxy.prompting import HistoryPolicy
from nexrl_proxy.workers.running import run_workers

HISTORIES = ("append", "template")
OPEN = "nexrl proxy: open on {} without --require-key: who reaches it may sample, and add calls to any session"


def proxy(
    *,
    engine: flags.Engine,
    engine_kind: flags.EngineKind = "sglang",
    engine_model: flags.EngineModel = None,
    processed_logprobs: flags.ProcessedLogprobs = False,
    model: flags.Model = None,
    served_model: flags.ServedModel = None,
    policies: flags.Policies = None,
    models: flags.Models = None,
    tool_parser: flags.ToolParser = "auto",
    reasoning_parser: flags.ReasoningParser = "auto",
    sampling: flags.Sampling = "{}",
    history: flags.History = "append",
    require_session: flags.RequireSession = False,
    require_key: flags.RequireKey = False,
    max_body_mb: flags.MaxBodyMb = BODY_MB,
    requests_per_minute: flags.RequestsPerMinute = None,
    ingest: flags.Ingest,
    host: flags.Host = "127.0.0.1",
    port: flags.Port = 8000,
    data: flags.Data = Path("nexrl-proxy"),
    workers: flags.Workers = 1,
    drain_s: flags.DrainS = DRAIN_S,
    exit_with_parent: flags.ExitWithParent = False,
) -> None:
    """Serve the OpenAI and Anthropic APIs in front of an engine, and record every call exactly as the engine saw it.

    Agents use http://HOST:PORT/v1 with an attempt key (`nexrl key ATTEMPT`), or http://HOST:PORT/s/ATTEMPT/v1.
    """
    serving = Serving(
        kind=engine_kind,
        key=os.environ.get(ENGINE_KEY_VARIABLE),
        model=engine_model,
        processed_logprobs=processed_logprobs,
    )
    try:
        served = served_model or (model.resolve().name if model else engine_model or "upstream")
        others = read_others(models, served)
        settings = Settings(
            engine=engine,
            serving=serving,
            model=model,
            ingest=ingest,
            data=data,
            access=Access(admin_key(data), require_session, require_key),
            served_model=served,
            policies=read_policies(policies, dict.fromkeys(others, "--models") | {served: "--served-model"}),
            others=others,
            tool_parser=tool_parser,
            reasoning_parser=reasoning_parser,
            policy=policy_of(sampling),
            history=_history(history),
            body_mb=max_body_mb,
            per_minute=requests_per_minute,
            workers=workers,
            drain_s=drain_s,
        )
        if note := kept_key_note(data):
            typer.echo(f"nexrl proxy: {note}", err=True)
        if not require_key and not is_loopback(host):
            typer.echo(OPEN.format(host), err=True)
        code = run(settings, at=(host, port), exit_with_parent=exit_with_parent)
    except NexrlError as error:
        typer.echo(f"nexrl proxy: {error}", err=True)
        raise typer.Exit(2) from error
    if code:
        raise typer.Exit(code)


def run(settings: Settings, *, at: tuple[str, int], exit_with_parent: bool) -> int:
    """Serve until the process is asked to stop and return the exit code; raises ConfigError."""
    allow_many_files()
    readings = readings_of(settings)
    bring_in(settings.data, settings.workers)
    if settings.workers == 1:
        run_loop(serve(settings, readings, at=at, exit_with_parent=exit_with_parent))
        return 0
    names = spool_names(settings.workers)

    def make(index: int, http: aiohttp.ClientSession) -> web.Application:
        return app_of(msgspec.structs.replace(settings, spool=names[index]), readings, http)

    return run_workers(settings.workers, make, at=at, drain_s=settings.drain_s, exit_with_parent=exit_with_parent)


async def serve(settings: Settings, readings: Readings, *, at: tuple[str, int], exit_with_parent: bool) -> None:
    """Serve until the process is asked to stop."""
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        runner = runner_of(app_of(settings, readings, http))
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        port = await listen(runner, *at)
        told = await stack.enter_async_context(stopping(exit_with_parent=exit_with_parent))
        announce(at[0], port)
        await told.asked.wait()
        await drained(runner, settings.drain_s, told.hurried)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _history(given: str) -> HistoryPolicy:
    if given not in HISTORIES:
        raise ConfigError(f"--history {given}: choose from {', '.join(HISTORIES)}")
    return given
