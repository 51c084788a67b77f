"""What the benchmark's processes tell each other: what to answer, what to call, and what came of it."""

from msgspec import Struct

NONCE = "n0nce000"
"""Stands in prompts where every call puts a text of its own."""
ROLLOUTS = 64
"""For gateways whose sessions must be made beforehand: so many are, and calls take turns."""


class Reply(Struct, frozen=True, kw_only=True):
    """One completion as HTTP bytes: whole, and as the chunks of a stream."""

    generate: bytes
    cumulative: list[bytes]
    """SGLang's default: each event holds everything so far."""
    deltas: list[bytes]
    """SGLang's incremental streaming: each event holds what is new."""
    chat: bytes
    chat_chunks: list[bytes]


class Settings(Struct, frozen=True, kw_only=True):
    """How the engine answers."""

    delay_s: float = 0.0
    """Before an answer begins."""
    slots: int = 0
    """Requests that are delayed at the same time, others wait for one of them to end; 0 sets no limit."""
    period_s: float = 0.0
    """Between two events of a stream; 0 sends one in each turn of the event loop."""
    deltas: bool = False
    """Whether `/generate` streams what is new, instead of everything so far."""


class Target(Struct, frozen=True, kw_only=True):
    """Where calls go, and what a gateway wants in them."""

    host: str
    port: int
    path: str
    """`{rollout}` becomes one of `ROLLOUTS` numbers."""
    headers: dict[str, str] = {}
    admin_key: str | None = None
    """Where given, every session gets an attempt key made from it."""


class Run(Struct, frozen=True, kw_only=True, tag=True):
    """Calls until `count` are made or `seconds` are over; `c` connections, each with one call at a time."""

    target: Target
    c: int
    count: int
    seconds: float
    prompts: str = "new"
    stream: bool = False
    logprobs: bool = True
    ramp_s: float = 0.0
    """Connections begin over this time, so that equal answers do not arrive together."""


class Turns(Struct, frozen=True, kw_only=True, tag=True):
    """Conversations of `turns` calls, each with everything said so far; one call at a time."""

    target: Target
    turns: int
    sessions: int
    pids: list[int]
    """Processes whose CPU time a turn is charged with."""


class Result(Struct, kw_only=True):
    calls: int = 0
    events: int = 0
    """Server-sent events received, those of unfinished calls included."""
    errors: int = 0
    error: str = ""
    """The first one."""
    wall_s: float = 0.0
    most_open: int = 0
    """Streams that had begun and not ended, at most."""
    latencies_s: list[float] = []
    firsts_s: list[float] = []
    """Until the first event of a stream."""


class TurnCosts(Struct, kw_only=True):
    cpu_ms: list[list[float]] = []
    """By session and turn."""
    last_request_bytes: int = 0
    error: str = ""
