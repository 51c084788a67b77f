"""The stores that are measured, each as a context that starts it on the one core and stops it."""

import contextlib
import sqlite3
import sys
import time
from collections.abc import Callable, Generator
from pathlib import Path

import msgspec
from msgspec import Struct

from gateways.gateway import post, wait_until_up
from gateways.peers import free_port
from gateways.processes import Process, cores, running
from nexrl.keys import ADMIN_KEY_VARIABLE, new_admin_key

START_S = 180.0
SETTLE_S = 120.0
ROLLOUTS = 16
"""Of Agent Lightning, which takes no span without one; spans take turns."""


class Server(Struct, frozen=True, kw_only=True):
    """What is measured."""

    name: str
    url: str
    process: Process
    directory: Path
    headers: dict[str, str] = {}
    packed: bool = True
    """Whether it takes zstd."""
    names: tuple[dict[str, str], ...] = ()
    """What spans must say to be taken, in turn; without any they are sent as they are."""
    stored: Callable[[], int] | None = None
    """Counts what is stored, for servers that answer before it is."""

    @property
    def traces(self) -> str:
        return f"{self.url}/v1/traces"

    def settle(self, spans: int) -> None:
        """Wait until so many spans are stored."""
        deadline = time.monotonic() + SETTLE_S
        while self.stored and (found := self.stored()) < spans:
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.name}: {found} of {spans} spans stored after {SETTLE_S:.0f} s")
            time.sleep(0.02)


@contextlib.contextmanager
def ingest(folder: Path) -> Generator[Server]:
    core, _ = cores()
    data, key = _new(folder, "nexrl"), new_admin_key()
    command = [str(Path(sys.executable).with_name("nexrl")), "ingest", "--port", "0", "--data", str(data)]
    with running(command, folder / "ingest.log", on=core, env={ADMIN_KEY_VARIABLE: key}, cwd=folder) as process:
        headers = {"Authorization": f"Bearer {key}"}
        yield Server(name="nexrl ingest", url=process.ready(), process=process, directory=data, headers=headers)


@contextlib.contextmanager
def floor(folder: Path) -> Generator[Server]:
    core, _ = cores()
    data = _new(folder, "floor")
    command = [sys.executable, "-m", "stores.floor", str(data / "spans")]
    with running(command, folder / "floor.log", on=core) as process:
        yield Server(name="floor: decode, append, fsync", url=process.ready(), process=process, directory=data)


@contextlib.contextmanager
def agent_lightning(folder: Path, venv: Path) -> Generator[Server]:
    """Agent Lightning 0.3's store server with its OTLP endpoint; it keeps spans in memory."""
    core, _ = cores()
    data, port = _new(folder, "agent-lightning"), free_port()
    command = [str(venv.absolute() / "bin" / "agl"), "store", "--host", "127.0.0.1", "--port", str(port)]
    with running(command, folder / "agent-lightning.log", on=core, cwd=data) as process:
        url = f"http://127.0.0.1:{port}"
        wait_until_up(process, f"{url}/v1/agl/health", START_S)
        named = tuple(_rollout(f"{url}/v1/agl") for _ in range(ROLLOUTS))
        yield Server(name="Agent Lightning 0.3", url=url, process=process, directory=data, packed=False, names=named)


@contextlib.contextmanager
def phoenix(folder: Path, venv: Path) -> Generator[Server]:
    """Phoenix with its default database, an SQLite file; it answers first and inserts later."""
    core, _ = cores()
    data, port = _new(folder, "phoenix"), free_port()
    env = {
        "PHOENIX_HOST": "127.0.0.1",
        "PHOENIX_PORT": str(port),
        "PHOENIX_GRPC_PORT": str(free_port()),
        "PHOENIX_WORKING_DIR": str(data),
        "PHOENIX_TELEMETRY_ENABLED": "false",
    }
    command = [str(venv.absolute() / "bin" / "python"), "-m", "phoenix.server.main", "serve"]
    with running(command, folder / "phoenix.log", on=core, env=env, cwd=data) as process:
        url = f"http://127.0.0.1:{port}"
        wait_until_up(process, f"{url}/healthz", START_S)
        yield Server(
            name="Phoenix",
            url=url,
            process=process,
            directory=data,
            packed=False,
            names=({},),
            stored=lambda: _rows(data / "phoenix.db"),
        )


def _new(folder: Path, name: str) -> Path:
    made = folder / f"{name}-{time.monotonic_ns()}"
    made.mkdir()
    return made


def _rollout(url: str) -> dict[str, str]:
    """Begin a rollout; return what spans of it must say."""
    begun = msgspec.json.decode(post(f"{url}/rollouts", msgspec.json.encode({"input": {}})))
    return {
        "agentlightning.rollout_id": begun["rollout_id"],
        "agentlightning.attempt_id": begun["attempt"]["attempt_id"],
    }


def _rows(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=30)) as raw:
        return raw.execute("SELECT count(*) FROM spans").fetchone()[0]


def bytes_in(directory: Path) -> int:
    """Return how much a directory's files hold, those of its folders too."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
