"""HTTP/1.1 messages on raw protocols: just enough for two programs that know each other, at a few microseconds each.

Used by the scripted engine and by the load, so that neither is what is measured. Bodies have a length or are chunked;
chunks are counted and searched, never taken apart.
"""

HEAD_END = b"\r\n\r\n"
LAST_CHUNK = b"\r\n0\r\n\r\n"


def length_of(head: bytes) -> int | None:
    """Return the length a head announces; None where it announces none."""
    lower = head.lower()
    place = lower.find(b"\r\ncontent-length:")
    if place < 0:
        return None
    start = place + len(b"\r\ncontent-length:")
    end = lower.find(b"\r\n", start)
    return int(lower[start:] if end < 0 else lower[start:end])


def is_chunked(head: bytes) -> bool:
    return b"\r\ntransfer-encoding: chunked" in head.lower()


def response(body: bytes, *, status: str = "200 OK") -> bytes:
    """Return a whole JSON response."""
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def stream_head() -> bytes:
    """Return the head of a stream of server-sent events."""
    return b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def request(path: str, host: str, headers: dict[str, str], body: bytes) -> bytes:
    """Return a POST."""
    lines = [f"POST {path} HTTP/1.1", f"host: {host}", "content-type: application/json"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines.append(f"content-length: {len(body)}")
    return "\r\n".join(lines).encode() + HEAD_END + body
