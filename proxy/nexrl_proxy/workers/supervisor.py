"""Start worker processes, start those again that die or hang, and leave none behind.

Workers are forks, so what the supervisor loaded is there at once and shared. It has one thread and no event loop, for
a fork keeps neither. Each worker holds the end of a pipe whose other end only the supervisor has: when that closes,
for whatever reason, the worker stops. A worker says in time that its event loop turns; one that no longer does is
killed, for nobody else can serve its sessions.
"""

import contextlib
import logging
import os
import selectors
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable

from msgspec import Struct

from nexrl.errors import NexrlError
from nexrl.service import parents_end

READY = b"ready"
BEAT = b"\0"
HUNG_S = 30.0
"""So long a worker that served may say nothing."""
BEATS = 15
"""As many it says in that time."""
STOP_TIMEOUT_S = 15.0
"""After that, a worker that does not stop is killed."""
LONG_LIFE_S = 10.0
"""A worker that lived longer is started again at once."""
LONGEST_PAUSE_S = 5.0
FAILED = 1
REFUSED = 2
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD)
MOST_MESSAGE = 64 * 1024
log = logging.getLogger(__name__)


class Place(Struct, frozen=True):
    """A worker's: its number, and its two pipes from and to the supervisor."""

    index: int
    lifeline: int
    """Readable once the supervisor is gone, or wants the worker to stop."""
    report: int
    """Takes `READY`, and from then on a `BEAT` every `beat_every_s`."""
    beat_every_s: float


class Process(Struct):
    """A worker as its supervisor sees it."""

    pid: int
    report: int
    began: float
    ready: bool = False
    said: bytes = b""
    heard: float = 0.0
    """When it last said anything."""


Work = Callable[[Place], None]


class Supervisor:
    """`run` it once."""

    def __init__(
        self,
        workers: int,
        work: Work,
        *,
        announce: Callable[[], None],
        listeners: Iterable[socket.socket],
        drain_s: float,
        hung_s: float = HUNG_S,
    ) -> None:
        """Take what a worker does, and what is done when all serve; `listeners` are closed when it stops.

        A signal gives workers `drain_s` to end what runs; a second one, or the parent's end, does not.
        """
        self._workers = workers
        self._work = work
        self._announce = announce
        self._announced = False
        self._listeners = listeners
        self._drain_s = drain_s
        self._gently = False
        self._hung_s = hung_s
        self._looked = time.monotonic()
        self._selector = selectors.DefaultSelector()
        self._processes: dict[int, Process] = {}
        self._failures = [0] * workers
        self._due: dict[int, float] = {}
        """When a worker that died is started again."""
        self._lifeline, self._held = os.pipe()

    def run(self, *, exit_with_parent: bool) -> int:
        """Return the exit code once all workers have ended."""
        wakeup, written = socket.socketpair()
        for end in (wakeup, written):
            end.setblocking(False)
        for number in SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(written.fileno())
        self._selector.register(wakeup, selectors.EVENT_READ, "signals")
        if exit_with_parent:
            self._selector.register(parents_end(), selectors.EVENT_READ, "parent")
        for index in range(self._workers):
            self._start(index)
        code = None
        while code is None:
            code = self._step(wakeup)
        for listener in self._listeners:
            listener.close()
        if self._gently:
            self._drain(wakeup)
        self._stop()
        return code

    def _step(self, wakeup: socket.socket) -> int | None:
        """Wait for something to happen and act on it; returns the exit code where it is time to stop."""
        for key, _ in self._selector.select(self._pause()):
            if key.data == "signals" and _asked(wakeup):
                self._gently = True
                return 0
            if key.data == "parent" and not os.read(key.fd, 4096):
                return 0
            if isinstance(key.data, int):
                self._hear(key.data)
        if not self._announced and len(self._processes) == self._workers and self._all_ready():
            self._announced = True
            self._announce()
        self._end_hung()
        return self._tend()

    def _end_hung(self) -> None:
        """Kill workers that say nothing; `_tend` starts them again."""
        now = time.monotonic()
        slept, self._looked = now - self._looked > self._hung_s / 2, now
        for index, process in self._processes.items():
            if slept:  # we stood still ourselves, so what they did meanwhile is not known
                process.heard = now
            if process.ready and now - process.heard > self._hung_s:
                log.error("worker %d hangs: it said nothing for %g s and is killed", index, self._hung_s)
                process.heard = now
                os.kill(process.pid, signal.SIGKILL)

    def _all_ready(self) -> bool:
        return all(process.ready for process in self._processes.values())

    def _pause(self) -> float:
        """Return how long nothing has to be done."""
        dues = [due - time.monotonic() for due in self._due.values()]
        return max(0.0, min([self._hung_s / 8, *dues]))

    def _start(self, index: int) -> None:
        heard, report = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        pid = os.fork()
        if pid == 0:
            self._become(Place(index, self._lifeline, report, self._hung_s / BEATS), heard)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        os.close(report)
        self._due.pop(index, None)
        self._processes[index] = Process(pid, heard, time.monotonic())
        self._selector.register(heard, selectors.EVENT_READ, index)

    def _become(self, place: Place, heard: int) -> None:
        """Be a worker, and end with it."""
        code = FAILED
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all; the supervisor says when to stop
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
            for descriptor in (heard, self._held, *(process.report for process in self._processes.values())):
                os.close(descriptor)
            self._selector.close()
            self._work(place)
            code = 0
        except NexrlError as error:
            os.write(place.report, str(error).encode()[:MOST_MESSAGE])
            code = REFUSED
        except BaseException:  # noqa: BLE001 - whatever it is, this process must not go on as the supervisor
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)

    def _hear(self, index: int) -> None:
        process = self._processes[index]
        said = os.read(process.report, MOST_MESSAGE)
        process.heard = time.monotonic()
        process.said += said.replace(BEAT, b"")
        process.ready = process.ready or process.said == READY
        if not said:
            self._selector.unregister(process.report)

    def _tend(self) -> int | None:
        """Take note of workers that died, and start those again whose time has come; returns an exit code to stop."""
        for index, process in list(self._processes.items()):
            pid, status = os.waitpid(process.pid, os.WNOHANG)
            if pid and (code := self._ended(index, status)) is not None:
                return code
        for index in [index for index, due in self._due.items() if due <= time.monotonic()]:
            self._start(index)
        return None

    def _ended(self, index: int, status: int) -> int | None:
        process = self._processes.pop(index)
        if process.report in self._selector.get_map():
            while process.said != READY and (more := os.read(process.report, MOST_MESSAGE)):
                process.said += more.replace(BEAT, b"")
            self._selector.unregister(process.report)
        os.close(process.report)
        code = os.waitstatus_to_exitcode(status)
        said = process.said.removeprefix(READY).decode(errors="replace")
        if not self._announced:
            sys.stderr.write(f"nexrl proxy: {said or f'worker {index} ended with {_named(code)} while it started'}\n")
            return code if code > 0 else FAILED
        lived = time.monotonic() - process.began
        self._failures[index] = 0 if lived > LONG_LIFE_S else self._failures[index] + 1
        pause = min(0.05 * 2 ** self._failures[index], LONGEST_PAUSE_S) if self._failures[index] > 1 else 0.0
        self._due[index] = time.monotonic() + pause
        log.error("worker %d ended with %s and is started again%s", index, _named(code), f": {said}" if said else "")
        return None

    def _drain(self, wakeup: socket.socket) -> None:
        """Let workers end what runs, until their time is over or somebody insists."""
        for process in self._processes.values():
            os.kill(process.pid, signal.SIGTERM)
        until = time.monotonic() + self._drain_s
        while self._processes and time.monotonic() < until:
            for key, _ in self._selector.select(until - time.monotonic()):
                if key.data == "signals" and _asked(wakeup):
                    return
                if key.data == "parent" and not os.read(key.fd, 4096):
                    return
                if isinstance(key.data, int):
                    self._hear(key.data)
            for index, process in list(self._processes.items()):
                if os.waitpid(process.pid, os.WNOHANG)[0]:
                    self._forget(self._processes.pop(index))

    def _forget(self, process: Process) -> None:
        if process.report in self._selector.get_map():
            self._selector.unregister(process.report)
        os.close(process.report)

    def _stop(self) -> None:
        """Let every worker end, by force if need be."""
        os.close(self._held)
        until = time.monotonic() + STOP_TIMEOUT_S
        for process in self._processes.values():
            while not os.waitpid(process.pid, os.WNOHANG)[0]:
                if time.monotonic() > until:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGKILL)
                    os.waitpid(process.pid, 0)
                    break
                time.sleep(0.01)
            self._forget(process)


def _asked(wakeup: socket.socket) -> bool:
    """Whether one of the signals that came asks to stop."""
    return bool({signal.SIGTERM, signal.SIGINT} & set(wakeup.recv(4096)))


def _named(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"signal {signal.Signals(-code).name}"
