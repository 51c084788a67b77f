"""A gateway under test, and the bench it stands on: the engine behind it and the load in front of it."""

import contextlib
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from gateways.processes import Process, cores, module, running
from gateways.wire import Result, Run, Settings, Target, TurnCosts, Turns
from gateways.workload import Workload

CHAT = "/v1/chat/completions"
PATIENCE_S = 60.0
"""Beyond the time that calls are made for; the load gives up on them sooner."""


class Gateway(Struct, frozen=True, kw_only=True):
    """What is measured: where to call it, and the process that pays for a call."""

    name: str
    engine_sends: str
    """What the engine behind it answers with."""
    native: bool
    """Whether the engine is called by `/generate`."""
    target: Target
    process: Process
    settle: Callable[[], None] = lambda: None
    """Waits until everything a call causes has been done."""
    most_plain: int = 256
    """Largest concurrency it is measured at; more takes minutes."""
    most_streams: int = 256
    """The same for streams; 0 where it refuses them."""
    note: str = ""
    report: Callable[[], str] = lambda: ""
    """What is to be said at the end."""


class Missing(Struct, frozen=True, kw_only=True):
    """A gateway that is not installed."""

    name: str
    remedy: str


class Bench(Struct, frozen=True, kw_only=True):
    """Engine and load, and a folder for what gateways leave."""

    engine: Process
    engine_url: str
    load: Process
    directory: Path
    model: Path

    def set_engine(self, **settings: Any) -> None:
        """Say how the engine answers from now on."""
        post(f"{self.engine_url}/control", msgspec.json.encode(Settings(**settings)))

    def run(self, run: Run) -> Result:
        answer = self.load.ask(msgspec.json.encode(run), run.seconds + PATIENCE_S)
        return msgspec.json.decode(answer, type=Result)

    def converse(self, turns: Turns) -> TurnCosts:
        answer = self.load.ask(msgspec.json.encode(turns), turns.turns * turns.sessions + PATIENCE_S)
        return msgspec.json.decode(answer, type=TurnCosts)


@contextlib.contextmanager
def bench(workload: Workload, model: Path, directory: Path) -> Generator[Bench]:
    """Start engine and load."""
    _, others = cores()
    with (
        running(module("engine", str(workload.replies)), directory / "engine.log", on=others) as engine,
        running(module("load", str(workload.prompts)), directory / "load.log", on=others) as load,
    ):
        yield Bench(engine=engine, engine_url=engine.ready(), load=load, directory=directory, model=model)


def target(url: str, path: str, headers: dict[str, str] | None = None, admin_key: str | None = None) -> Target:
    """Return where calls to a service go."""
    parts = urlsplit(url)
    assert parts.hostname, url
    assert parts.port, url
    return Target(host=parts.hostname, port=parts.port, path=path, headers=headers or {}, admin_key=admin_key)


def post(url: str, body: bytes, headers: dict[str, str] | None = None) -> bytes:
    """POST JSON and return the answer."""
    sent = urllib.request.Request(url, data=body, headers={"content-type": "application/json", **(headers or {})})
    with urllib.request.urlopen(sent, timeout=30) as answer:
        return answer.read()


def get(url: str, headers: dict[str, str] | None = None) -> bytes:
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers or {}), timeout=30) as answer:
        return answer.read()


def wait_until_up(process: Process, url: str, timeout_s: float) -> None:
    """Wait until `url` answers; raises SystemExit where the process ends or the time is over."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.popen.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            get(url)
            return
        time.sleep(0.2)
    raise SystemExit(f"{process.name} does not answer at {url}:\n{process.errors()}")
