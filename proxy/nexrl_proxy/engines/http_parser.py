"""One HTTP/1.1 response, from bytes in any pieces. Pure: `http.py` owns the sockets.

Strict where leniency would let two readers disagree about where a response ends (RFC 9112, section 6.3); engines are
trusted with the size of a body, not with the size of a head.
"""

import re
from collections.abc import Callable

from nexrl.errors import ServiceError

LARGEST_HEAD = 64 * 2**10
LARGEST_CHUNK_LINE = 4 * 2**10
SWITCHING_PROTOCOLS = 101
OK = 200
WITHOUT_BODY = (204, 304)
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r\n]*)?")
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,15})[ \t]*(?:;[^\r\n]*)?")
_LENGTH = re.compile(rb"[0-9]{1,18}")


class ParseError(ServiceError):
    """The bytes are no HTTP/1.1 response."""


class ResponseParser:
    """Feed it what arrives; `status` and `headers` are there after the head, `pieces` grow with the body."""

    def __init__(self) -> None:
        self.status = 0
        """0 until the head is complete."""
        self.headers: dict[bytes, bytes] = {}
        """By lower-case name; repeated ones joined with commas."""
        self.pieces: list[bytes] = []
        """Body that was not taken yet."""
        self.complete = False
        self.keep_alive = False
        """Whether the connection can carry another request once this response is complete."""
        self.started = False
        """Whether a byte of the response came."""
        self._held = b""
        self._left = 0
        # A function of the class, not a bound method: that would make every response a reference cycle.
        self._read: Callable[[ResponseParser, bytes], bytes] = ResponseParser._head

    def feed(self, data: bytes) -> None:
        """Take what arrived; raises ParseError."""
        self.started = self.started or bool(data)
        if self._held:
            data, self._held = self._held + data, b""
        while data and not self.complete:
            data = self._read(self, data)
        if data:
            self.keep_alive = False  # bytes nobody asked for: what they answer cannot be known

    def eof(self) -> None:
        """End with the connection; raises ParseError where that cuts the response short."""
        if self.complete:
            return
        if self._read is ResponseParser._until_closed:
            self.complete = True
        elif not self.started:
            raise ParseError("it closed the connection without answering")
        else:
            missing = f", {self._left} bytes short" if self._read is ResponseParser._length else ""
            raise ParseError(f"it closed the connection in the middle of its answer{missing}")

    def take(self) -> bytes:
        """Return the body that arrived since the last call."""
        pieces = self.pieces
        if len(pieces) == 1:
            self.pieces = []
            return pieces[0]
        self.pieces = []
        return b"".join(pieces)

    def _head(self, data: bytes) -> bytes:
        end = data.find(b"\r\n\r\n")
        if end < 0 or end > LARGEST_HEAD:
            if len(data) > LARGEST_HEAD:
                raise ParseError(f"its header is larger than {LARGEST_HEAD} bytes")
            self._held = data
            return b""
        status_line, *lines = data[:end].split(b"\r\n")
        matched = _STATUS_LINE.fullmatch(status_line)
        if not matched:
            raise ParseError(f"it does not speak HTTP/1.1: {status_line[:80]!r}")
        status = int(matched[2])
        if status == SWITCHING_PROTOCOLS:
            raise ParseError("it switches protocols, which nobody asked for")
        if status >= OK:
            self.headers = headers_of(lines)
            self._frame(status, modern=matched[1] == b"1")
            self.status = status
        return data[end + 4 :]

    def _frame(self, status: int, *, modern: bool) -> None:
        """Decide where the body ends."""
        headers = self.headers
        connection = headers.get(b"connection", b"").lower()
        self.keep_alive = b"close" not in connection and (modern or b"keep-alive" in connection)
        coding, length = headers.get(b"transfer-encoding"), headers.get(b"content-length")
        if status in WITHOUT_BODY:
            self.complete = True
        elif coding is not None:
            if coding.lower() != b"chunked":
                raise ParseError(f"transfer-encoding {coding!r} is not understood; only chunked is")
            self.keep_alive &= length is None
            self._read = ResponseParser._chunks
        elif length is not None:
            self._left = length_of(length)
            self.complete = self._left == 0
            self._read = ResponseParser._length
        else:
            self.keep_alive = False
            self._read = ResponseParser._until_closed

    def _length(self, data: bytes) -> bytes:
        left = self._left - len(data)
        if left > 0:
            self._left = left
            self.pieces.append(data)
            return b""
        self.complete = True
        piece, rest = (data, b"") if left == 0 else (data[:left], data[left:])
        self._left = 0
        self.pieces.append(piece)
        return rest

    def _until_closed(self, data: bytes) -> bytes:
        self.pieces.append(data)
        return b""

    def _chunks(self, data: bytes) -> bytes:
        """Take whole chunks, as long as there are any; `_chunk` takes one that comes in pieces."""
        place, end = 0, len(data)
        while place < end:
            line = data.find(b"\r\n", place)
            if line < 0:
                if end - place > LARGEST_CHUNK_LINE:
                    raise ParseError(f"the line that opens a chunk is longer than {LARGEST_CHUNK_LINE} bytes")
                self._held = data[place:]
                return b""
            matched = _CHUNK_SIZE.fullmatch(data, place, line)
            if not matched:
                raise ParseError(f"a chunk cannot begin with {data[place:line][:40]!r}")
            size, start = int(matched[1], 16), line + 2
            if size == 0:
                self._read = ResponseParser._trailers
                return data[start:]
            place = start + size + 2
            if place > end:
                self._left = size
                self._read = ResponseParser._chunk
                return data[start:]
            if data[place - 2 : place] != b"\r\n":
                raise ParseError("a chunk is longer than it said")
            self.pieces.append(data[start : place - 2])
        return b""

    def _chunk(self, data: bytes) -> bytes:
        """Take a chunk as it comes, then the line end that closes it."""
        if self._left:
            piece, data = data[: self._left], data[self._left :]
            self._left -= len(piece)
            self.pieces.append(piece)
        if len(data) < len(b"\r\n"):
            self._held = data
            return b""
        if not data.startswith(b"\r\n"):
            raise ParseError("a chunk is longer than it said")
        self._read = ResponseParser._chunks
        return data[2:]

    def _trailers(self, data: bytes) -> bytes:
        """Skip the trailer lines; an empty one ends the response."""
        while (line := data.find(b"\r\n")) > 0:
            data = data[line + 2 :]
        if line == 0:
            self.complete = True
            return data[2:]
        if len(data) > LARGEST_HEAD:
            raise ParseError(f"its trailer is larger than {LARGEST_HEAD} bytes")
        self._held = data
        return b""


def headers_of(lines: list[bytes]) -> dict[bytes, bytes]:
    """Return header lines by lower-case name; raises ParseError."""
    headers: dict[bytes, bytes] = {}
    for line in lines:
        name, colon, value = line.partition(b":")
        if not colon or not _NAME.fullmatch(name):
            raise ParseError(f"{line[:80]!r} is no header")
        name, value = name.lower(), value.strip(b" \t")
        headers[name] = headers[name] + b", " + value if name in headers else value
    return headers


def length_of(value: bytes) -> int:
    """Return a content-length; the same one repeated is one. Raises ParseError."""
    lengths = {part.strip() for part in value.split(b",")}
    [length] = lengths if len(lengths) == 1 else [b""]
    if not _LENGTH.fullmatch(length):
        raise ParseError(f"content-length {value[:80]!r} is no length")
    return int(length)
