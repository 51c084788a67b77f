"""What every convention is read into."""

from typing import Any, Literal

from msgspec import Struct

Kind = Literal["llm", "tool", "agent", "chain", "retriever", "embedding", "other"]


class Usage(Struct, frozen=True, kw_only=True):
    """Tokens, as the instrumentation was told; None where it was not."""

    input_tokens: int | None = None
    output_tokens: int | None = None


class Meaning(Struct, frozen=True, kw_only=True):
    """What the attributes of a span say under one convention."""

    kind: Kind
    name: str = ""
    """Of the tool, the agent or the operation; empty where only the span has a name."""
    model: str = ""
    input: Any = None
    """Chat messages of a model's call; arguments, a question or documents of anything else."""
    output: Any = None
    usage: Usage | None = None


class Step(Struct, frozen=True, kw_only=True):
    """One thing an agent did, as its own spans tell it."""

    id: str
    """The span id, 16 hexadecimal digits."""
    parent: str | None
    trace: str
    kind: Kind
    name: str
    convention: Literal["openinference", "gen_ai", "openllmetry", "none"]
    model: str
    input: Any
    output: Any
    usage: Usage | None
    error: str | None
    """What the span says went wrong."""
    service: str
    started_ns: int
    ended_ns: int
    duration_ms: float
