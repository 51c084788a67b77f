"""Run an agent: any command, a fresh process per attempt, killed with all its children when its time is up.

Knows processes and nothing else; what the agent's end means is `collect.py`'s business.
"""

import asyncio
import contextlib
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from msgspec import Struct

from nexrl.emitting import INGEST_VARIABLE
from nexrl.errors import ConfigError

KEPT_BYTES = 1 << 20
"""Of each output stream; an agent that prints more keeps its newest megabyte."""
POLL_S = 0.02
DRAIN_S = 2.0
_FIELD = re.compile(r"\{(\w+)\}")
_OTLP = "OTEL_EXPORTER_OTLP_"
"""https://opentelemetry.io/docs/specs/otel/protocol/exporter/; values of headers are percent-encoded."""


class Ended(Struct, frozen=True, kw_only=True):
    """How an agent's process ended."""

    exit_code: int
    """Negative: killed by that signal, as subprocess counts."""
    timed_out: bool
    stdout: str
    stderr: str
    duration_s: float


def fill(template: str, fields: Mapping[str, Any]) -> str:
    """Put a task's fields in place of their `{name}`s; raises ConfigError naming one that the task lacks."""

    def look_up(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in fields:
            raise ConfigError(f"agent: {template!r} asks for {name!r}, the task has {', '.join(fields)}")
        return str(fields[name])

    return _FIELD.sub(look_up, template)


def agent_environment(proxy: str, ingest: str, key: str, model: str, extra: Mapping[str, str]) -> dict[str, str]:
    """Return what an agent finds in its environment: ours, less every NEXRL_* variable, plus where to call and report.

    Both names of the base URL are set, since frameworks differ in which they read. The admin key never gets here.
    OpenTelemetry SDKs send to ingest, into the attempt's session, unless the user's environment sends them elsewhere.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("NEXRL_")}
    base = f"{proxy}/v1"
    ours = {"OPENAI_BASE_URL": base, "OPENAI_API_BASE": base, "OPENAI_API_KEY": key, "OPENAI_MODEL": model}
    ours |= {"ANTHROPIC_BASE_URL": proxy, "ANTHROPIC_API_KEY": key, "ANTHROPIC_MODEL": model}
    # A company's HTTP proxy does not know the way back to this machine.
    hosts = dict.fromkeys([urlsplit(proxy).hostname, urlsplit(ingest).hostname, "localhost"])
    direct = ",".join(filter(None, [inherited.get("NO_PROXY"), *hosts]))
    ours |= {"NO_PROXY": direct, "no_proxy": direct, INGEST_VARIABLE: ingest}
    if not any(name.startswith(_OTLP) for name in {**inherited, **extra}):
        ours |= {f"{_OTLP}ENDPOINT": ingest, f"{_OTLP}PROTOCOL": "http/protobuf"}
        ours |= {f"{_OTLP}HEADERS": f"authorization=Bearer%20{quote(key)}"}
    return {**inherited, "OMP_NUM_THREADS": "1", **ours, **extra}


async def run_command(
    command: list[str], *, stdin: str | None, environment: Mapping[str, str], folder: Path, timeout_s: float
) -> Ended:
    """Run one process to its end; raises OSError where it cannot be started. Cancelling kills it too."""
    program = [sys.executable, *command[1:]] if command[0] == "python" else command
    started = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *program,
        stdin=asyncio.subprocess.PIPE if stdin is not None else asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=dict(environment),
        cwd=folder,
        start_new_session=True,
    )
    stdout, stderr = bytearray(), bytearray()
    streams = [_feed(process, stdin), _newest(process.stdout, stdout), _newest(process.stderr, stderr)]
    output = asyncio.gather(*streams)
    timed_out = False
    try:
        async with asyncio.timeout(timeout_s):
            await _ended(process)
    except TimeoutError:
        timed_out = True
    finally:
        duration_s = time.monotonic() - started
        # Also after a normal end: children that the agent left running hold its pipes and our machine.
        _kill_group(process.pid)
        await _settle(process, output)
    return Ended(
        exit_code=process.returncode or 0,
        timed_out=timed_out,
        stdout=stdout.decode(errors="replace"),
        stderr=stderr.decode(errors="replace"),
        duration_s=duration_s,
    )


async def _ended(process: asyncio.subprocess.Process) -> None:
    # process.wait() also waits for the pipes to close, which a child left behind by the agent would put off for ever.
    while process.returncode is None:  # noqa: ASYNC110 - nothing tells us but this
        await asyncio.sleep(POLL_S)


async def _feed(process: asyncio.subprocess.Process, text: str | None) -> None:
    if process.stdin is None or text is None:
        return
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(text.encode())
        await process.stdin.drain()
    process.stdin.close()


async def _newest(stream: asyncio.StreamReader | None, kept: bytearray) -> None:
    assert stream
    while chunk := await stream.read(1 << 16):
        kept += chunk
        del kept[:-KEPT_BYTES]


async def _settle(process: asyncio.subprocess.Process, output: asyncio.Future[Any]) -> None:
    """Read what is left in the pipes, but wait for nobody who left the group and holds them: a daemon, a browser."""
    await asyncio.wait({output}, timeout=DRAIN_S)
    output.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await output
    # There is no public way to close the read ends, and an open one would keep `wait` from returning.
    process._transport.close()  # noqa: SLF001  # pyright: ignore[reportAttributeAccessIssue]
    await _ended(process)


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
