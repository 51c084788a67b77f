"""`python -m nexrl_trainer.engines.servers`: an SGLang or vLLM server as one of our services.

Neither says on standard output that it serves, nor ends with whoever started it. This process starts it, prints
`ready URL` once it is healthy, passes on that it should stop, and takes it along wherever it goes itself.
"""

import asyncio
import contextlib
import os
import signal
import socket
import sys
from collections.abc import Coroutine
from typing import Annotated, Any, Literal

import aiohttp
import typer

from nexrl.service import die_with_parent, serve_until_stopped
from nexrl_trainer.engines.servers.kinds import SERVERS

LOOK_EVERY_S = 0.5
HEALTH_TIMEOUT_S = 30.0
STOP_S = 10.0


def main(
    flags: Annotated[list[str], typer.Argument(help="The server's own, after `--`.")],
    *,
    kind: Annotated[Literal["sglang", "vllm"], typer.Option(help="Which server.")] = "sglang",
    python: Annotated[str, typer.Option(help="Python of the environment that has it.")] = sys.executable,
    host: Annotated[str, typer.Option(help="Address to serve on. There is no authentication.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to serve on; 0 takes a free one.", min=0, max=65535)] = 0,
    exit_with_parent: Annotated[
        bool, typer.Option("--exit-with-parent", help="Stop when standard input closes: for a process that starts us.")
    ] = False,
) -> None:
    """Run a server; print `ready http://HOST:PORT` once it is healthy, stop it on SIGTERM and SIGINT.

    Example: python -m nexrl_trainer.engines.servers --python sgl/bin/python -- --model-path MODEL --tp-size 2
    """
    bound = port or _free_port(host)
    command = [python, "-m", SERVERS[kind].module, "--host", host, "--port", str(bound), *flags]
    raise typer.Exit(asyncio.run(_serve(command, host, bound, exit_with_parent=exit_with_parent)))


async def _serve(command: list[str], host: str, port: int, *, exit_with_parent: bool) -> int:
    """Return 0 where it was stopped; where the server ended by itself, its exit code, which then is not 0."""
    child = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=sys.stderr,
        start_new_session=True,
        preexec_fn=die_with_parent,  # their own children do the same
    )
    ended = asyncio.create_task(child.wait())
    try:
        if not await _first(ended, _healthy(f"http://{host}:{port}/health")):
            return ended.result() or 1
        serving = serve_until_stopped(host, port, exit_with_parent=exit_with_parent)
        return 0 if await _first(ended, serving) else ended.result() or 1
    finally:
        await _stop(child, ended)


async def _first(ended: "asyncio.Task[int]", work: Coroutine[Any, Any, object]) -> bool:
    """Return whether `work` was done before the server ended."""
    doing = asyncio.create_task(work)
    await asyncio.wait({ended, doing}, return_when=asyncio.FIRST_COMPLETED)
    if doing.done():
        doing.result()
        return True
    doing.cancel()
    await asyncio.wait({doing})
    return False


async def _healthy(url: str) -> None:
    """Return once the server answers well."""
    timeout = aiohttp.ClientTimeout(total=HEALTH_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as http:
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                async with http.get(url) as reply:
                    if reply.ok:
                        return
            await asyncio.sleep(LOOK_EVERY_S)


async def _stop(child: asyncio.subprocess.Process, ended: "asyncio.Task[int]") -> None:
    """Ask the server to stop, and make sure of it and of all it started."""
    if not ended.done():
        child.terminate()
        await asyncio.wait({ended}, timeout=STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    await ended


def _free_port(host: str) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]


if __name__ == "__main__":
    typer.run(main)
