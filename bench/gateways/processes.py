"""Processes of the benchmark: the gateway alone on one core, everything else on the others; what they cost."""

import contextlib
import os
import queue
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import psutil

BENCH = Path(__file__).parents[1]
READY = "ready "
STOP_S = 5.0


def cores() -> tuple[set[int], set[int]]:
    """Return the gateway's core, and those of everything else."""
    mine = sorted(os.sched_getaffinity(0))
    return {mine[0]}, set(mine[1:] or mine)


def allow_many_connections() -> None:
    """Let this process and those it starts open as many files as the machine allows."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Process:
    """A started program and its children."""

    def __init__(
        self, command: Sequence[str], log: Path, *, on: set[int], env: dict[str, str] | None = None, cwd: Path = BENCH
    ) -> None:
        """Start `command` on cores `on`; what it says on standard error is kept in `log`."""
        self.name = command[2] if command[1:2] == ["-m"] else Path(command[0]).name
        self._log = log
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, on)  # inherited by the child, threads and all
        try:
            with log.open("ab") as errors:
                self.popen = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    env=os.environ | {"PYTHONFAULTHANDLER": "1"} | (env or {}),
                    cwd=cwd,
                )
        finally:
            os.sched_setaffinity(0, before)
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def ask(self, line: bytes, timeout_s: float) -> bytes:
        """Write a line and return the line that answers it; raises SystemExit where none does in time."""
        assert self.popen.stdin
        self.popen.stdin.write(line + b"\n")
        self.popen.stdin.flush()
        return self.line(timeout_s, awaited=f"an answer to {line.decode()}").encode()

    def line(self, timeout_s: float, *, awaited: str = "a line") -> str:
        """Return the next line of standard output; raises SystemExit where the process ends or says nothing."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                return self._lines.get(timeout=0.2)
            if self.popen.poll() is not None and self._lines.empty():
                raise SystemExit(f"{self.name} ended with status {self.popen.returncode}:\n{self.errors()}")
        self.popen.send_signal(signal.SIGABRT)  # Python then says where it stood
        self.popen.wait(STOP_S)
        raise SystemExit(f"{self.name}: {awaited} did not come within {timeout_s:.0f} s:\n{self.errors()}")

    def ready(self, timeout_s: float = 60.0) -> str:
        """Return the URL a service announces."""
        while not (line := self.line(timeout_s, awaited=f"a line with {READY!r}")).startswith(READY):
            continue
        return line.removeprefix(READY).strip()

    def errors(self) -> str:
        return self._log.read_text(errors="replace")[-2000:]

    @property
    def pids(self) -> list[int]:
        children = psutil.Process(self.popen.pid).children(recursive=True)
        return [self.popen.pid, *(child.pid for child in children)]

    def cpu_s(self) -> float:
        """Return user and system time so far, threads and children included, to the nanosecond."""
        return sum(time.clock_gettime((~pid << 3) | 2) for pid in self.pids)  # clock_getcpuclockid(3)

    def anonymous(self) -> int:
        """Return resident bytes of the process's own (no mapped files), children included."""
        return sum(_anonymous(Path(f"/proc/{pid}/status")) for pid in self.pids)

    def waited_s(self) -> float:
        """Return how long its main thread was ready to run and had no core."""
        return int(Path(f"/proc/{self.popen.pid}/schedstat").read_text().split()[1]) / 1e9

    def stop(self) -> None:
        """End the process; one that does not listen is killed."""
        self.popen.terminate()
        try:
            self.popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()

    def _read(self) -> None:
        assert self.popen.stdout
        for line in self.popen.stdout:
            self._lines.put(line.decode(errors="replace"))


@contextlib.contextmanager
def running(
    command: Sequence[str], log: Path, *, on: set[int], env: dict[str, str] | None = None, cwd: Path = BENCH
) -> Generator[Process]:
    """Run a program as long as the context lasts."""
    process = Process(command, log, on=on, env=env, cwd=cwd)
    try:
        yield process
    finally:
        process.stop()


def _anonymous(status: Path) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def module(name: str, *arguments: str) -> list[str]:
    """Return the command that runs one of the benchmark's own programs."""
    return [sys.executable, "-m", f"gateways.{name}", *arguments]
