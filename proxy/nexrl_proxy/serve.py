"""`nexrl proxy`: put the proxy together from its flags and serve it until it is told to stop."""

import contextlib
import ipaddress
import os
from pathlib import Path
from typing import Annotated

import aiohttp
import msgspec
import typer
from aiohttp import web

from nexrl.errors import ConfigError, NexrlError
from nexrl.keys import ENGINE_KEY_VARIABLE, admin_key
from nexrl.service import allow_many_files, announce, run_loop, stopping
from nexrl_proxy.deployment import Settings, app_of, reading_of
from nexrl_proxy.draining import DRAIN_S, drained
from nexrl_proxy.engines.kinds import KINDS, Serving
from nexrl_proxy.leftovers import bring_in, spool_names
from nexrl_proxy.limits import BODY_MB
from nexrl_proxy.listening import listen, runner_of
from nexrl_proxy.models import read_others
from nexrl_proxy.operating import Access
from nexrl_proxy.parsers.choose import REASONING_PARSERS, TOOL_PARSERS
from nexrl_proxy.policy import policy_of
from nexrl_proxy.prompting import HistoryPolicy
from nexrl_proxy.sampling import Reading
from nexrl_proxy.workers.running import run_workers

HISTORIES = ("append", "template")
OPEN = "nexrl proxy: open on {} without --require-key: who reaches it may sample, and add calls to any session"


def proxy(
    engine: Annotated[str, typer.Option(help="Base URLs of the engines, http://HOST:PORT, separated by commas.")],
    ingest: Annotated[str, typer.Option(help="Where spans go: the base URL of `nexrl ingest`.")],
    model: Annotated[
        Path | None,
        typer.Option(
            help="Model directory: tokenizer.json, chat template, config.json; no weights needed. "
            "Not used with --engine-kind openai."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8000,
    engine_kind: Annotated[
        str,
        typer.Option(
            help=f"What serves there: {', '.join(KINDS)}. The embedded engine speaks sglang. openai is any server with "
            "/v1/chat/completions: recorded, but not exact, so not trained. A key is read from "
            f"{ENGINE_KEY_VARIABLE}."
        ),
    ] = "sglang",
    engine_model: Annotated[
        str | None, typer.Option(help="The name an openai engine has for the model. [default: the client's]")
    ] = None,
    processed_logprobs: Annotated[
        bool,
        typer.Option("--processed-logprobs", help="vLLM was started with --logprobs-mode processed_logprobs."),
    ] = False,
    data: Annotated[Path, typer.Option(help="Directory for spans not yet delivered, and for the admin key.")] = Path(
        "nexrl-proxy"
    ),
    tool_parser: Annotated[
        str, typer.Option(help=f"{', '.join(TOOL_PARSERS)}; auto: from the chat template.")
    ] = "auto",
    reasoning_parser: Annotated[
        str, typer.Option(help=f"{', '.join(REASONING_PARSERS)}; auto: from the chat template.")
    ] = "auto",
    sampling: Annotated[
        str,
        typer.Option(
            help="Sampling parameters to force, or to use where a request says nothing, as JSON by mode: "
            '{"train": {"force": {"temperature": 1.0}}, "eval": {"default": {"top_p": 0.9}}}.'
        ),
    ] = "{}",
    history: Annotated[
        str,
        typer.Option(
            help="append: earlier turns stay as they were sampled. template: the chat template renders them anew, and "
            "a chain ends where that changes them."
        ),
    ] = "append",
    require_session: Annotated[
        bool, typer.Option("--require-session", help="Refuse calls that name no attempt (401).")
    ] = False,
    require_key: Annotated[
        bool,
        typer.Option(
            "--require-key",
            help="Refuse calls without an attempt key (401). Without: who reaches the port may sample for any session.",
        ),
    ] = False,
    max_body_mb: Annotated[int, typer.Option(help="Largest request body, MiB.", min=1)] = BODY_MB,
    requests_per_minute: Annotated[
        int | None, typer.Option(help="Most requests a session may make a minute (429). [default: no limit]", min=1)
    ] = None,
    workers: Annotated[
        int, typer.Option(help="Processes that share the port; all calls of a session go to the same one.", min=1)
    ] = 1,
    served_model: Annotated[
        str | None, typer.Option(help="Name listed by /v1/models. [default: the model directory's name]")
    ] = None,
    models: Annotated[
        Path | None,
        typer.Option(
            help="Other models, answered by other servers and never trained, asked for by their names: a JSON file "
            '{"judge": {"url": "https://HOST/v1", "model": "its name there", "key_variable": "JUDGE_KEY"}}. '
            "A key is read from the environment variable that is named."
        ),
    ] = None,
    drain_s: Annotated[
        float,
        typer.Option(
            help="Seconds that running requests have to end after SIGTERM or SIGINT, while nobody new is let in; "
            "a second signal ends them at once.",
            min=0,
        ),
    ] = DRAIN_S,
    exit_with_parent: Annotated[
        bool, typer.Option("--exit-with-parent", help="Stop when standard input closes.")
    ] = False,
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
        settings = Settings(
            engine=engine,
            serving=serving,
            model=model,
            ingest=ingest,
            data=data,
            access=Access(admin_key(data), require_session, require_key),
            served_model=served,
            others=read_others(models, served),
            tool_parser=tool_parser,
            reasoning_parser=reasoning_parser,
            policy=policy_of(sampling),
            history=_history(history),
            body_mb=max_body_mb,
            per_minute=requests_per_minute,
            workers=workers,
            drain_s=drain_s,
        )
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
    reading = reading_of(settings)
    bring_in(settings.data, settings.workers)
    if settings.workers == 1:
        run_loop(serve(settings, reading, at=at, exit_with_parent=exit_with_parent))
        return 0
    names = spool_names(settings.workers)

    def make(index: int, http: aiohttp.ClientSession) -> web.Application:
        return app_of(msgspec.structs.replace(settings, spool=names[index]), reading, http)

    return run_workers(settings.workers, make, at=at, drain_s=settings.drain_s, exit_with_parent=exit_with_parent)


async def serve(settings: Settings, reading: Reading | None, *, at: tuple[str, int], exit_with_parent: bool) -> None:
    """Serve until the process is asked to stop."""
    async with contextlib.AsyncExitStack() as stack:
        http = await stack.enter_async_context(aiohttp.ClientSession())
        runner = runner_of(app_of(settings, reading, http))
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
