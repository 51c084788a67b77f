"""Spans on disk until ingest has them: what was answered survives a killed proxy.

Frames are appended to segment files without fsync: the kernel keeps them when the process dies. Read oldest first and
deleted once delivered. Where the disk refuses, frames wait in memory. One proxy per directory; nothing here waits.
"""

import fcntl
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from nexrl.errors import ConfigError

HEADER = struct.Struct("<II")  # length and CRC-32 of what follows
SEGMENT_BYTES = 16 * 2**20
DEAD_LETTERS = "dead-letters.spool"


class Spool:
    """A queue of byte strings in `directory`, in order of their arrival."""

    def __init__(self, directory: Path) -> None:
        """Take the directory and what an earlier process left there; raises ConfigError where it is in use."""
        self._directory = directory
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"--data {directory}: another proxy uses it; give each its own directory") from error
        except OSError as error:
            raise ConfigError(f"--data {directory}: {error.strerror}; use a directory that can be written") from error
        self._segments = deque(sorted(path for path in directory.glob("*.spool") if path.name != DEAD_LETTERS))
        self._next = 1 + max((int(path.stem) for path in self._segments), default=0)
        self._writer: int | None = None
        self._written = 0
        self._read = 0
        """Offset in the oldest segment."""
        self._memory: deque[bytes] = deque()
        self._peeked_memory = False
        self.torn = 0
        """Frames that were cut off by a crash or damaged, moved to the dead letters."""

    def append(self, body: bytes) -> bool:
        """Keep a frame; returns whether it is on disk."""
        frame = HEADER.pack(len(body), zlib.crc32(body)) + body
        try:
            self._write(frame)
        except OSError:
            self._memory.append(body)
            return False
        return True

    def peek(self, *, frames: int, size: int) -> list[bytes]:
        """Return the oldest frames: at most `frames`, and no more than `size` bytes unless the first is larger."""
        while self._segments:
            found, whole = self._frames(self._segments[0], self._read, frames, size)
            if found:
                self._peeked_memory = False
                return found
            if not whole:
                self._set_aside(self._segments[0])
            self._retire()
        self._peeked_memory = True
        return _first(self._memory, frames, size)

    def advance(self, frames: list[bytes]) -> None:
        """Forget the frames that `peek` returned last."""
        if not self._peeked_memory:
            self._read += sum(HEADER.size + len(frame) for frame in frames)
            return
        for _ in frames:
            self._memory.popleft()

    def bury(self, body: bytes) -> None:
        """Keep a frame nobody will take, for people to look at."""
        with (self._directory / DEAD_LETTERS).open("ab") as file:
            file.write(HEADER.pack(len(body), zlib.crc32(body)) + body)

    def left_over(self) -> Iterator[bytes]:
        """Yield every frame an earlier process left."""
        for path in self._segments:
            yield from self._frames(path, 0, 2**31, 2**62)[0]

    def close(self) -> None:
        self._close_writer()
        os.close(self._lock)

    def _write(self, frame: bytes) -> None:
        if self._written + len(frame) > SEGMENT_BYTES:
            self._close_writer()
        if self._writer is None:
            path = self._directory / f"{self._next:012d}.spool"
            self._writer = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND, 0o600)
            self._next += 1
            self._segments.append(path)
        if os.write(self._writer, frame) < len(frame):
            os.ftruncate(self._writer, self._written)
            raise OSError("the disk took part of a frame")
        self._written += len(frame)

    def _frames(self, path: Path, offset: int, frames: int, size: int) -> tuple[list[bytes], bool]:
        """Return frames from `offset` on, and whether the last one looked at was whole."""
        found: list[bytes] = []
        taken = 0
        with path.open("rb") as file:
            file.seek(offset)
            while len(found) < frames and (header := file.read(HEADER.size)):
                length, checksum = HEADER.unpack(header) if len(header) == HEADER.size else (0, -1)
                taken += length
                if found and taken > size:
                    break
                body = file.read(length)
                if len(body) < length or zlib.crc32(body) != checksum:
                    return found, False
                found.append(body)
        return found, True

    def _set_aside(self, path: Path) -> None:
        self.torn += 1
        with (self._directory / DEAD_LETTERS).open("ab") as file:
            file.write(path.read_bytes()[self._read :])

    def _retire(self) -> None:
        path = self._segments.popleft()
        if not self._segments:
            self._close_writer()
        path.unlink(missing_ok=True)
        self._read = 0

    def _close_writer(self) -> None:
        if self._writer is not None:
            os.close(self._writer)
        self._writer, self._written = None, 0


def _first(memory: deque[bytes], frames: int, size: int) -> list[bytes]:
    found: list[bytes] = []
    taken = 0
    for frame in memory:
        taken += len(frame)
        if len(found) == frames or (found and taken > size):
            break
        found.append(frame)
    return found
