"""A Python that has imported what agents import, and forks for each: `python forking.py REQUESTS REPLIES MODULE...`.

A script of the standard library alone, so that an agent finds nothing of NexRL in its interpreter. `fork_server.py` is
its owner and says what the two descriptors carry.
"""

import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
HEAD = 4
"""Bytes of a request's length, with which its three descriptors travel."""


def main() -> None:
    """Import the modules, say `{}`, then fork until the owner is gone; a child goes on as its agent."""
    requests, pipe, *modules = sys.argv[1:]
    with socket.socket(fileno=int(requests)) as asked, os.fdopen(int(pipe), "wb", buffering=0) as replies:
        sys.path.pop(0)
        for name in modules:
            importlib.import_module(name)
            refuse_threads(name)
        # What is shared stays shared: a collection in a child would write to every page of it.
        gc.collect()
        gc.freeze()
        control(PR_SET_CHILD_SUBREAPER, 1)
        replies.write(b"{}\n")
        request = serve(asked, replies)
    if request:
        become(request)


def refuse_threads(name: str) -> None:
    """Exit where a module started threads: they do not live on in a child, and what they hold is locked for ever."""
    tasks = Path("/proc/self/task")
    if threading.active_count() > 1 or (tasks.exists() and len(list(tasks.iterdir())) > 1):
        sys.exit(f"importing {name!r} starts threads, which no fork survives; leave it out")


def serve(requests: socket.socket, replies: BinaryIO) -> dict[str, Any] | None:
    """Fork for each request and tell of each end; returns in a child what it is to be, and None when all is over."""
    server, children = os.getpid(), set[int]()
    woken, waker = socket.socketpair()
    with woken, waker, selectors.DefaultSelector() as selector:
        waker.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker.fileno(), warn_on_full_buffer=False)
        selector.register(requests, selectors.EVENT_READ)
        selector.register(woken, selectors.EVENT_READ)
        while True:
            ready = {key.fileobj for key, _ in selector.select()}
            if woken in ready:
                woken.recv(1 << 12)
                bury(children, replies)
            if requests in ready:
                request, streams = received(requests)
                if request is None:
                    end_all(children, replies)
                    return None
                try:
                    pid = os.fork()
                except OSError as error:  # the machine is full: that agent's failure, and no other's
                    tell(replies, {"error": str(error)})
                else:
                    if not pid:
                        take_place(request, streams, server)
                        return request
                    children.add(pid)
                    tell(replies, {"pid": pid})
                for descriptor in streams:
                    os.close(descriptor)


def received(requests: socket.socket) -> tuple[dict[str, Any] | None, list[int]]:
    """Return a request, and its standard input, output and error; no request at the end."""
    head, files, _, _ = socket.recv_fds(requests, HEAD, 3)
    if not head:
        return None, []
    size, body = int.from_bytes(head + requests.recv(HEAD - len(head), socket.MSG_WAITALL), "big"), bytearray()
    while len(body) < size:
        piece = requests.recv(size - len(body))
        if not piece:  # the owner was killed while it asked
            return None, []
        body += piece
    return json.loads(body), files


def bury(children: set[int], replies: BinaryIO) -> None:
    """Tell of the children that ended, and kill what each left in its group while nobody else can have its number."""
    with contextlib.suppress(ChildProcessError):
        while found := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            pid = found.si_pid
            if pid in children:
                end(pid)
            _, status = os.waitpid(pid, 0)
            if pid in children:
                children.discard(pid)
                tell(replies, {"pid": pid, "code": os.waitstatus_to_exitcode(status)})


def end_all(children: set[int], replies: BinaryIO) -> None:
    """Kill the children, and what they left behind that is ours by now."""
    for pid in children:
        end(pid)
    while children:
        time.sleep(0.001)
        bury(children, replies)
    mine = Path(f"/proc/self/task/{os.getpid()}/children")
    while mine.exists() and (left := mine.read_text().split()):
        for pid in left:
            os.kill(int(pid), signal.SIGKILL)
            os.waitpid(int(pid), 0)


def end(pid: int) -> None:
    """Kill a child, and its process group, which it may not have yet."""
    for kill in (os.kill, os.killpg):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            kill(pid, signal.SIGKILL)


def tell(replies: BinaryIO, message: dict[str, Any]) -> None:
    """Write one line; nobody reads it where the owner is gone."""
    with contextlib.suppress(BrokenPipeError):
        replies.write(json.dumps(message).encode() + b"\n")


def take_place(request: dict[str, Any], streams: list[int], server: int) -> None:
    """Give this child its signals, its session, its streams, its environment and its folder; end it with the server."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    control(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != server:  # it was gone before that
        os._exit(1)
    os.setsid()
    for number, descriptor in enumerate(streams):
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])


def control(option: int, value: int) -> None:
    """Call prctl(2), which Linux alone has."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value)


def become(request: dict[str, Any]) -> None:
    """Run a script, or a module behind `-m`, as this interpreter's program: chance, names and errors are its own."""
    for name in ("numpy", "torch"):
        if module := sys.modules.get(name):
            (module.random.seed if name == "numpy" else module.seed)()
    sys.excepthook = show
    first, *rest = request["arguments"]
    if first == "-m":
        sys.path.insert(0, str(Path.cwd()))
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(first).resolve().parent))
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a traceback that begins in the agent."""
    ours = {__file__, "<frozen runpy>", runpy.__file__}
    while trace and trace.tb_frame.f_code.co_filename in ours:
        trace = trace.tb_next
    sys.__excepthook__(kind, error.with_traceback(trace), trace)


if __name__ == "__main__":
    main()
