"""Engine, ingest and proxy as real processes that can be killed and started again, and what each of them knows.

`sampled` is what the engine wrote down, `stored` what ingest has: where nothing is lost, they are the same tokens.
"""

import asyncio
import contextlib
import os
import random
import re
import resource
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import zstandard
from failure_engine import Entry, Script
from proxy_world import ADMIN

from nexrl.keys import attempt_key
from nexrl.records import Call, decode
from nexrl_proxy.parsers.choose import Parsers
from nexrl_proxy.render import Renderer
from nexrl_proxy.template import template_of

LETTERS = "abcdefghijklmnopqrstuvwxyz"
HERE = Path(__file__).parent
PATIENCE_S = 20.0
NOT_FOUND = 404
OURS = re.compile(r'File ".*nexrl_(proxy|ingest)/')


class Service:
    """A process at a fixed address."""

    def __init__(self, directory: Path, name: str, *command: str, inside: Sequence[str] = ()) -> None:
        """Take a module or script of Python's with its flags; `inside` is a command that becomes what follows it."""
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [*inside, sys.executable, *command, "--port", str(self.port)]
        self._log = directory / f"{name}.log"
        self._environment = {**os.environ, "NEXRL_ADMIN_KEY": ADMIN, "OMP_NUM_THREADS": "1"}
        self._process: subprocess.Popen[str] | None = None

    def start(self, *flags: str) -> None:
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [*self._command, *flags], stdout=subprocess.PIPE, stderr=log, text=True, env=self._environment
            )
        assert self._process.stdout
        line = self._process.stdout.readline()
        assert line.strip() == f"ready {self.url}", f"{line} {self.log()}"

    def kill(self) -> None:
        """End it as a power cut would."""
        self.end(signal.SIGKILL)

    def end(self, how: int = signal.SIGTERM) -> int:
        """End it; returns its exit status."""
        if self._process is None:
            return 0
        process, self._process = self._process, None
        process.send_signal(how)
        assert process.stdout
        process.stdout.close()
        return process.wait(timeout=PATIENCE_S)

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def may_write(self, size: int = resource.RLIM_INFINITY) -> None:
        """Let no file of the running process grow beyond so many bytes."""
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def resident(self) -> int:
        """Return the bytes of memory it holds, and begin to measure the most it will."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        return self.peak()

    def peak(self) -> int:
        """Return the most bytes of memory it held since `resident` was called."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    def log(self) -> str:
        return self._log.read_text()

    @property
    def runs(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process
        return self._process.pid


class Deployment:
    """One engine, one ingest, one proxy."""

    def __init__(self, model: Path, directory: Path) -> None:
        parsers = Parsers(tools="auto", reasoning="none", template=template_of(model))
        self.renderer = Renderer(model, markers=parsers.markers, endings=parsers.endings)
        self._script, self._journal = directory / "script.json", directory / "journal"
        self._journal.touch()
        scripted = ("--script", str(self._script), "--journal", str(self._journal))
        self.engine = Service(directory, "engine", str(HERE / "failure_engine.py"), *scripted)
        self.ingest = Service(directory, "ingest", "-m", "nexrl_ingest", "ingest", "--data", str(directory / "ingest"))
        self._model = model
        self.proxy = self.proxy_in(directory)
        self.says()

    def proxy_in(self, directory: Path, *, inside: Sequence[str] = ()) -> Service:
        """Return a proxy that keeps its data in a directory's `proxy`."""
        upstream = ("--engine", self.engine.url, "--ingest", self.ingest.url, "--model", str(self._model))
        own = ("--data", str(directory / "proxy"), "--drain-s", "1")
        return Service(directory, "proxy", "-m", "nexrl_proxy", *upstream, *own, inside=inside)

    @property
    def services(self) -> tuple[Service, ...]:
        return self.engine, self.ingest, self.proxy

    def says(self, **script: Any) -> None:
        """Set what the engine does with the next requests."""
        [eos] = self.renderer.eos
        letters = [self.renderer.encode(letter)[0] for letter in LETTERS]
        new = self._script.with_suffix(".new")
        new.write_bytes(msgspec.json.encode(Script(letters=letters, eos=eos, **script)))
        new.rename(self._script)

    def journal(self) -> list[Entry]:
        return [msgspec.json.decode(line, type=Entry) for line in self._journal.read_bytes().splitlines()]

    def mark(self) -> int:
        """Return a place in the journal."""
        return len(self.journal())

    def sampled(self, since: int = 0) -> list[list[int]]:
        """Return the tokens of every request the engine was asked since that place and sampled something for."""
        found: dict[str, list[int]] = {}
        for entry in self.journal()[since:]:
            if entry.token is not None:
                found.setdefault(entry.rid, []).append(entry.token)
        return sorted(found.values())

    def text(self, ids: list[int]) -> str:
        """Return tokens as a client reads them."""
        return "".join(self.renderer.vocabulary.literal(token) for token in ids if token not in self.renderer.eos)

    async def stats(self) -> dict[str, Any]:
        return msgspec.json.decode(await self.admin("GET", f"{self.proxy.url}/api/stats"))

    async def flush(self, attempt: str) -> int:
        """Wait until ingest has every call of an attempt; returns how many the proxy recorded."""
        body = await self.admin("POST", f"{self.proxy.url}/api/sessions/{attempt}/flush?timeout_s=15")
        return msgspec.json.decode(body)["calls"]

    async def stored(self, attempt: str) -> list[Call]:
        """Return what ingest has of an attempt, oldest first."""
        try:
            body = await self.admin("GET", f"{self.ingest.url}/api/sessions/{attempt}/calls")
        except aiohttp.ClientResponseError as error:
            if error.status != NOT_FOUND:
                raise
            return []
        return sorted(decode(body, list[Call]), key=lambda call: call.started_ns)

    async def kept(self, attempt: str) -> list[Call]:
        """Return what ingest has of an attempt once the proxy says that it has all."""
        await self.flush(attempt)
        return await self.stored(attempt)

    async def admin(self, method: str, url: str) -> bytes:
        headers = {"authorization": f"Bearer {ADMIN}", "accept-encoding": "zstd"}
        connector = aiohttp.TCPConnector(force_close=True)
        async with (
            aiohttp.ClientSession(auto_decompress=False, connector=connector, raise_for_status=True) as http,
            http.request(method, url, headers=headers) as reply,
        ):
            body = await reply.read()
            return zstandard.decompress(body) if reply.headers.get("content-encoding") == "zstd" else body

    async def quiet(self, within_s: float = 5.0) -> None:
        """Wait until nothing runs in the proxy."""
        await eventually(self._is_quiet, within_s)

    async def _is_quiet(self) -> bool:
        return (await self.stats())["running"] == 0


@contextlib.contextmanager
def deployed(model: Path, directory: Path) -> Iterator[Deployment]:
    """Run a deployment; what it wrote to its logs may hold no traceback through code of ours."""
    made = Deployment(model, directory)
    try:
        for service in made.services:
            service.start()
        yield made
    finally:
        for service in made.services:
            service.end()
    for service in (made.ingest, made.proxy):
        assert not OURS.search(service.log()), service.log()


def new_attempt() -> str:
    return f"a-{secrets.token_hex(6)}"


def key_of(attempt: str) -> str:
    return attempt_key(attempt, ADMIN)


async def eventually(condition: Callable[[], bool | Awaitable[bool]], within_s: float = 5.0) -> float:
    """Wait for something that another process does; returns how long it took."""
    began = time.monotonic()
    while True:
        met = condition()
        if met if isinstance(met, bool) else await met:
            return time.monotonic() - began
        assert time.monotonic() - began < within_s, f"not within {within_s} s"
        await asyncio.sleep(0.02)


def free_port() -> int:
    """Return a port that no outgoing connection is given meanwhile, as it lies below the range of those."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as tried, contextlib.suppress(OSError):
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind(("127.0.0.1", port))
            return port
