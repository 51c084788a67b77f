"""A server that sends exactly the bytes it is told, in exactly these pieces, and remembers what it was sent."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Sequence

HANG_UP = None
"""In a script: close the connection."""


class RawServer:
    """Each request, on whatever connection, is answered with the next script."""

    def __init__(self, *scripts: Sequence[bytes | None]) -> None:
        self.scripts = [list(script) for script in scripts]
        self.requests: list[bytes] = []
        self.connections = 0
        self.closed = asyncio.Event()
        """Set whenever a client closed its connection."""
        self.url = ""
        self.greeting = b""
        """Sent without waiting for the request, which is then never read."""
        self.writers: set[asyncio.StreamWriter] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self.writers.add(writer)
        try:
            if self.greeting:
                writer.write(self.greeting)
                await self.closed.wait()
            while request := await self.request(reader):
                self.requests.append(request)
                for piece in self.scripts.pop(0):
                    if piece is HANG_UP:
                        return
                    writer.write(piece)
                    await writer.drain()
                    await asyncio.sleep(0)
        except ConnectionError:
            pass
        finally:
            self.closed.set()
            self.writers.discard(writer)
            writer.close()

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return b""
        length = next((line.split(b":")[1] for line in head.split(b"\r\n") if line.startswith(b"content-length")), b"0")
        return head + await reader.readexactly(int(length))


@contextlib.asynccontextmanager
async def raw(
    *scripts: Sequence[bytes | None], host: str = "127.0.0.1", tls: ssl.SSLContext | None = None
) -> AsyncIterator[RawServer]:
    """Serve these scripts on a free port."""
    made = RawServer(*scripts)
    server = await asyncio.start_server(made.serve, host, 0, ssl=tls)
    shown = f"[{host}]" if ":" in host else host
    made.url = f"http://{shown}:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        made.closed.set()
        while made.writers:
            made.writers.pop().transport.abort()
        await asyncio.sleep(0.001)


def plain(body: bytes, *, status: str = "200 OK", headers: str = "") -> bytes:
    """Return a response with a content-length."""
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(body)}\r\n{headers}\r\n".encode() + body


def chunked(pieces: Sequence[bytes], *, ending: bytes = b"0\r\n\r\n") -> bytes:
    """Return a response in chunks."""
    chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces if piece)
    return b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n" + chunks + ending
