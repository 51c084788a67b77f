"""A service in a process of its own: start it, learn its address, notice its end, stop it.

Used directly on the driver's machine, and as a Ray actor where Ray chooses the machine. Services run in a session of
their own, so that Ctrl-C in the terminal reaches the trainer alone, which then stops them in order; their standard
input is a pipe from us, whose closing ends them should we be killed.
"""

import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from nexrl.errors import ServiceError

READY = "ready "
LOG_LINES = 12


class ServiceProcess:
    """One child process that prints `ready URL` once it serves."""

    def __init__(self, name: str, argv: Sequence[str], log: str, environment: Mapping[str, str]) -> None:
        self.name = name
        self.log = Path(log)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as stderr:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                start_new_session=True,
                env={**os.environ, **environment},
            )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, name=f"{name}-output", daemon=True).start()

    def url(self, timeout_s: float = 120.0) -> str:
        """Wait for the address; raises ServiceError with the log's end where the service ends or stays silent."""
        while True:
            try:
                line = self._lines.get(timeout=timeout_s)
            except queue.Empty:
                self.stop()
                raise ServiceError(f"{self.name} was not ready within {timeout_s:g} s{self._log_end()}") from None
            if line is None:
                self._process.wait()
                raise ServiceError(f"{self.name} did not start: {self.ended()}")
            if line.startswith(READY):
                return line.removeprefix(READY).strip()

    def ended(self) -> str | None:
        """Return how the process ended, with the log's end, or None while it runs."""
        code = self._process.poll()
        return None if code is None else f"exit code {code}{self._log_end()}"

    def stop(self, timeout_s: float = 15.0) -> None:
        """Ask it to stop, and make sure of it."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _read(self) -> None:
        assert self._process.stdout
        try:
            for line in self._process.stdout:
                self._lines.put(line)
        except ValueError:  # closed under us by stop()
            pass
        self._lines.put(None)

    def _log_end(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_LINES:] if self.log.is_file() else []
        return "".join(f"\n    {line}" for line in lines) + f"\n    (log: {self.log})"
