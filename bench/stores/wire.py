"""What the benchmark's processes tell each other: what to send where, and what came of it."""

from msgspec import Struct


class Body(Struct, frozen=True, kw_only=True, array_like=True):
    """One OTLP request."""

    spans: int
    plain_bytes: int
    packed: bytes
    """zstd, as the proxy sends it."""


class Send(Struct, frozen=True, kw_only=True, tag=True):
    """Send all bodies of a file, over `c` connections with one request at a time each."""

    url: str
    headers: dict[str, str]
    path: str
    c: int
    packed: bool = True
    """False: unpacked, for servers that know no zstd."""


class Stream(Struct, frozen=True, kw_only=True, tag=True):
    """Make and send small calls, so many that no file should hold them."""

    url: str
    headers: dict[str, str]
    calls: int
    c: int


class Sent(Struct, kw_only=True):
    """What came of it."""

    spans: int = 0
    plain_bytes: int = 0
    wall_s: float = 0.0
    errors: int = 0
    error: str = ""
