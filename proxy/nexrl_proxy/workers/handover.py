"""Give a connection to another worker: the socket itself, with what was already read from it.

One datagram on a Unix socket carries both. A connection on its way to a worker that dies is closed by the kernel, as
are those the worker had.
"""

import asyncio
import errno
import logging
import os
import socket
import sys
import tempfile
from array import array
from collections.abc import Callable
from pathlib import Path

MOST_INLINE = 64 * 1024 if sys.platform == "linux" else 1024
"""What a datagram has room for, well below the kernel's limit; more travels in a file."""
FULL = (errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS)
GONE = (errno.ENOENT, errno.ECONNREFUSED)
log = logging.getLogger(__name__)

Take = Callable[[socket.socket, bytes], None]


class Handovers:
    """One worker's way to the others."""

    def __init__(self, directory: Path, index: int) -> None:
        self._directory = directory
        self._path = self._path_of(index)
        self._out = _datagrams()
        self._in = _datagrams()

    def open(self, take: Take) -> None:
        """Let `take` have each connection that is given, with the bytes that were read from it."""
        self._path.unlink(missing_ok=True)
        self._in.bind(str(self._path))
        self._path.chmod(0o600)
        asyncio.get_running_loop().add_reader(self._in.fileno(), self._receive, take)

    def close(self) -> None:
        """Take and give nothing any more; connections under way are closed by the kernel."""
        asyncio.get_running_loop().remove_reader(self._in.fileno())
        self._in.close()
        self._out.close()
        self._path.unlink(missing_ok=True)

    def send(self, worker: int, connection: int, read: bytes) -> bool:
        """Give a connection, by its file descriptor, to a worker; returns False where it does not take it now."""
        try:
            self._post(worker, read, [connection])
        except OSError as error:
            if error.errno not in (*FULL, *GONE):
                log.error("a connection could not be given to worker %d: %s", worker, error)  # noqa: TRY400
            return False
        return True

    def _post(self, worker: int, read: bytes, files: list[int]) -> None:
        if len(read) > MOST_INLINE:
            with tempfile.TemporaryFile() as file:
                file.write(read)
                file.flush()
                self._post(worker, b"in the file", [*files, file.fileno()])
            return
        # Not socket.send_fds: it forgets the address.
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", files))]
        self._out.sendmsg([read], rights, 0, str(self._path_of(worker)))

    def _receive(self, take: Take) -> None:
        while True:
            try:
                read, given, _, _ = socket.recv_fds(self._in, MOST_INLINE, 2)
            except BlockingIOError:
                return
            if not given:
                log.error("a connection was lost on its way here: are there too many open files?")
                continue
            if len(given) > 1:
                with os.fdopen(given[1], "rb") as file:
                    file.seek(0)
                    read = file.read()
            take(socket.socket(fileno=given[0]), read)

    def _path_of(self, worker: int) -> Path:
        return self._directory / f"{worker}.connections"


def _datagrams() -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    return sock
