"""Bodies of blocks in append-only files beside SQLite, each written once; which block is where, the database says.

A body is on the disk before the transaction that names it commits, so after a crash at any instant every named body is
whole, and what nobody names is a tail that opening cuts off, or a file that it removes. Bytes once written stay as they
are from the moment their transaction may be durable, even where it then failed, and every opening begins a file of its
own: nothing that could still be named is ever written over. A file goes once nobody names it, neither in what is
committed nor at a moment that some reader still looks at.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple
from zlib import crc32

from nexrl_ingest.refusals import UnavailableError

SEGMENT_BYTES = 64 * 1024 * 1024
"""Of a file, unless its only body is longer."""
_SUFFIX = ".blocks"


class Place(NamedTuple):
    """Where a body is."""

    segment: int
    start: int
    length: int
    checksum: int
    """CRC-32 of its bytes."""


class _End(NamedTuple):
    """Where the next body goes."""

    segment: int
    length: int


class Segments:
    """The files of a directory: read from any thread and process, written from one thread of one process.

    `append`, then `sync`, then the database's commit; `rewind` where any of these failed; `settle` after either.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._file: int | None = None
        self._end = self._kept = _End(max(self.sizes(), default=0) + 1, 0)
        self.settled = self._end.segment
        """The first segment that a transaction under way may write to."""

    def sizes(self) -> dict[int, int]:
        """Return the bytes of each file, by segment."""
        if not self.directory.is_dir():
            return {}
        files = [entry for entry in os.scandir(self.directory) if entry.name.endswith(_SUFFIX)]
        return {int(entry.name.removesuffix(_SUFFIX)): entry.stat().st_size for entry in files}

    def read(self, place: Place) -> bytes:
        """Return a body; raises UnavailableError where its bytes are not those that were written."""
        path = self._path(place.segment)
        try:
            with path.open("rb", buffering=0) as file:
                body = os.pread(file.fileno(), place.length, place.start)
        except OSError as error:
            raise UnavailableError(f"{path} cannot be read: {error}") from error
        if len(body) != place.length or crc32(body) != place.checksum:
            raise UnavailableError(f"{path} is damaged at byte {place.start}: restore it from a backup")
        return body

    def append(self, body: bytes) -> Place:
        """Write a body behind the others; raises OSError where it cannot be."""
        if self._end.length and self._end.length + len(body) > SEGMENT_BYTES:
            self.roll()
        if self._file is None:
            self._create()
        assert self._file is not None
        segment, start = self._end
        rest = memoryview(body)
        while rest:
            rest = rest[os.pwrite(self._file, rest, start + len(body) - len(rest)) :]
        self._end = _End(segment, start + len(body))
        return Place(segment, start, len(body), crc32(body))

    def take_back(self, place: Place) -> None:
        """Forget the body that was appended last, before anything was done that may outlive its submission."""
        assert self._end == (place.segment, place.start + place.length)
        self._end = _End(place.segment, place.start)

    def roll(self) -> None:
        """Let the next body begin a new file."""
        if self._file is not None:
            os.fdatasync(self._file)
            os.close(self._file)
            self._file = None
        if self._end.length:
            self._end = _End(self._end.segment + 1, 0)

    def sync(self) -> None:
        """Return once everything appended would survive a power cut; from now on nothing of it is written over."""
        appended, self._kept = self._end != self._kept, self._end
        if appended and self._file is not None:
            os.fdatasync(self._file)

    def rewind(self) -> None:
        """Let what a transaction appended be written over, unless it was synced."""
        if self._end.segment == self._kept.segment:
            self._end = self._kept

    def settle(self) -> None:
        """Say that no transaction is under way."""
        self.settled = self._end.segment

    def cut(self, named: Mapping[int, int]) -> None:
        """Remove what nobody names, given the end of the last named body by segment, before anything is appended."""
        for segment, size in self.sizes().items():
            if segment not in named:
                self._path(segment).unlink()
            elif size > named[segment]:
                os.truncate(self._path(segment), named[segment])

    def remove(self, segment: int) -> None:
        self._path(segment).unlink(missing_ok=True)

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
        self._file = None

    def _path(self, segment: int) -> Path:
        return self.directory / f"{segment:08}{_SUFFIX}"

    def _create(self) -> None:
        """Begin a file; its name would survive a power cut, too."""
        self.directory.mkdir(exist_ok=True)
        segment = self._end.segment
        while self._path(segment).exists():
            segment += 1
        self._file = os.open(self._path(segment), os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self._end = _End(segment, 0)
        for directory in (self.directory, self.directory.parent):
            _sync_directory(directory)


def _sync_directory(directory: Path) -> None:
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
