"""The vocabulary: one frozen record per word the project uses, shared by every room.

Pure data. How a call travels is `spans.py`; how calls become sequences is `nexrl_ingest.assembly`.
`encode` and `decode` turn any record into MessagePack and back; token arrays travel as packed bytes.
"""

import sys
from array import array
from collections.abc import Iterable
from copy import copy
from typing import TYPE_CHECKING, Any, Literal, Self, TypeVar

import msgspec
from msgspec import Struct

RecordT = TypeVar("RecordT")
if TYPE_CHECKING:
    _IntArray = array[int]
    _FloatArray = array[float]
else:  # array cannot be subscripted on Python 3.11
    _IntArray = _FloatArray = array

Status = Literal["open", "completed", "failed"]
Mode = Literal["train", "eval"]


class Int32s(_IntArray):
    """Signed 32-bit integers (token ids, weight versions), packed little-endian on the wire."""

    def __new__(cls, values: Iterable[int] = ()) -> Self:
        return super().__new__(cls, "i", values)  # pyright: ignore[reportReturnType]


class Float32s(_FloatArray):
    """IEEE 754 single-precision floats (logprobs), packed little-endian on the wire.

    Never half precision: float16 distorts importance ratios by up to 0.4 %.
    """

    def __new__(cls, values: Iterable[float] = ()) -> Self:
        return super().__new__(cls, "f", values)  # pyright: ignore[reportReturnType]


class Task(Struct, frozen=True, kw_only=True):
    """One row of the dataset: what an agent is asked to do, plus what the reward needs."""

    id: str
    fields: dict[str, Any]
    """The row as it stands in the dataset; the agent command and the reward read it by name."""


class Group(Struct, frozen=True, kw_only=True):
    """The rollouts of one task that are compared with each other."""

    id: str
    run: str
    task: Task
    size: int
    """Number of rollouts; the group is ready when all of them are final."""
    mode: Mode = "train"
    """Groups of mode `eval` are stored and shown, never leased for training."""


class Attempt(Struct, frozen=True, kw_only=True):
    """One try at one rollout. Its id names the session its model calls belong to."""

    id: str
    """Unguessable, and new for every try, so that a straggler cannot write into its successor."""
    group: str
    rollout: int
    """Index of the rollout in its group, 0 <= rollout < size."""


class Reward(Struct, frozen=True, kw_only=True):
    """A named number given to a rollout, or to one call of it."""

    name: str
    value: float
    call: str | None = None
    """The call it judges; None for the rollout as a whole."""
    by: str = "trainer"
    """Who gave it: `trainer`, `agent`, or the name of a later judge."""
    at_ns: int = 0
    """Unix time in nanoseconds; ingest fills it in where it is 0."""
    id: str | None = None
    """Given by whoever may send it twice: a session keeps one reward under an id."""
    explanation: str = ""
    """Why, in words, where the judge said."""


class Outcome(Struct, frozen=True, kw_only=True):
    """How an attempt ended. A failed rollout is data, not a crash."""

    status: Literal["completed", "failed"]
    reason: str = ""
    """Why it failed, for people: `agent: exit code 3`, `timeout after 60 s`, `reward: ZeroDivisionError`; or what cut a
    completed one off: `cut off after 32 turns`."""
    rewards: list[Reward] = []
    final: bool = True
    """False: another attempt at the same rollout follows, and this one does not count."""
    calls: int | None = None
    """Number of calls the proxy recorded; ingest refuses the outcome until that many have arrived."""


class Call(Struct, frozen=True, kw_only=True):
    """One model call, with the exact tokens the engine saw and produced.

    The prompt is `parent's prompt + parent's completion + prompt_delta`, so that a session of N tokens costs O(N).
    """

    id: str
    """The span id, 16 hexadecimal digits."""
    session: str
    """The attempt id this call is attributed to."""
    parent: str | None = None
    """The call whose prompt and completion are this prompt's first tokens."""
    prompt_delta: Int32s = msgspec.field(default_factory=Int32s)
    """int32 [prompt tokens the parent does not have]; the whole prompt where there is no parent."""
    completion: Int32s = msgspec.field(default_factory=Int32s)
    """int32 [C] as sampled, the end-of-turn token included."""
    logprobs: Float32s = msgspec.field(default_factory=Float32s)
    """float32 [C], log-probability under the distribution that was sampled from (temperature applied)."""
    weight_versions: Int32s = msgspec.field(default_factory=Int32s)
    """int32 [C], the weights that sampled each token, as the engine reported them."""
    temperature: float = 1.0
    """Effective sampling temperature; 0 means greedy, which is not a policy and is not trained."""
    sampling: dict[str, Any] = {}
    """All effective sampling parameters, in SGLang's names: what the request, the recipe and the defaults made."""
    finish_reason: str = "stop"
    """As the engine said it: `stop`, `length`, or `abort` (cancelled, or the client went away)."""
    exact: bool = True
    """False where the engine gave no token ids; such a call is shown and left out of training."""
    other_model: bool = False
    """Another model answered than the one that may be trained, because the agent asked for it: no drift."""
    policy: str = ""
    """Which of several models that learn sampled it, by the name it has in its run; empty for the run's first."""
    drift: str | None = None
    """Why the prompt opened a new chain although the session held one it could have extended."""
    agent: str | None = None
    """The sub-agent that called, where the caller named it (`x-nexrl-agent`)."""
    group: str | None = None
    """The key of the sessions it is to be compared with, where the caller named one (`x-nexrl-group`)."""
    model: str = ""
    """The model name the caller asked for."""
    dialect: str = "chat"
    """The wire format it came in: `chat`, `completions`, `responses` or `messages`."""
    response: str = ""
    """The id of the reply it is part of; the n choices of one request share it."""
    messages: list[dict[str, Any]] = []
    """Input messages the parent does not have, as chat messages: as they arrived where they came as such.

    A raw text prompt is one user message with the text the parent does not have.
    """
    tools: list[dict[str, Any]] | None = None
    """Tool definitions as chat tools; None where they are the parent's."""
    template: dict[str, Any] = {}
    """Arguments for the chat template (`enable_thinking`, ...)."""
    instructed: bool = False
    """The first message is instructions, which a request that goes on from the reply by its id does not inherit."""
    stored: bool = False
    """Later requests may name the reply by its id: go on from it, read it."""
    reply: dict[str, Any] = {}
    """The assistant message as it was returned."""
    malformed_tool_call: bool = False
    """The completion held a tool call that could not be parsed; the agent received it as text."""
    started_ns: int = 0
    ended_ns: int = 0


class Turn(Struct, frozen=True, kw_only=True):
    """Where one call's completion stands in a sequence, and what a trainer must know of how it was sampled."""

    call: str
    start: int
    """Index of its first sampled token in the sequence."""
    end: int
    """Index after its last one."""
    agent: str | None = None
    """The sub-agent that called."""
    finish_reason: str = "stop"
    altered: list[str] = []
    """Sampling parameters by which the engine changed the distribution beyond temperature: see `sampling.py`."""


class Sequence(Struct, frozen=True, kw_only=True):
    """One chain laid out for training. All arrays have the same length T.

    Example (P prompt, C completion, E environment): ids P1 C1 E1 C2, loss_mask 0 1 0 1.
    """

    ids: Int32s
    """int32 [T]"""
    loss_mask: Int32s
    """int32 [T], 1 where the token was sampled and is to be trained, else 0."""
    logprobs: Float32s
    """float32 [T], engine logprobs where the mask is 1; 0 elsewhere, never to be read there."""
    weight_versions: Int32s
    """int32 [T], -1 where the mask is 0."""
    temperatures: Float32s
    """float32 [T], the temperature each token was sampled at; 1 where the mask is 0."""
    calls: list[str]
    """Ids of the calls along the chain, first to last."""
    agent: str | None = None
    """The sub-agent that made the first of them."""
    policy: str = ""
    """The model that sampled all of them: see `Call.policy`."""
    turns: list[Turn] = []
    """One per call of the chain, in the same order."""


INEXACT = "inexact"
MISSING_PARENT = "missing-parent"
GREEDY = "greedy"
"""Why a call cannot be trained; any other reason is why it opened a new chain."""


class Drift(Struct, frozen=True, kw_only=True):
    """A call that should have extended its chain but opened a new one, or cannot be trained, and why."""

    call: str
    reason: str


class Trajectory(Struct, frozen=True, kw_only=True):
    """A rollout's sequences plus its rewards and status: the unit the trainer receives."""

    session: str
    rollout: int | None
    """Index in the group; None for a session nobody planned (external agents)."""
    status: Status
    reason: str
    rewards: list[Reward]
    sequences: list[Sequence]
    drift: list[Drift]


class TrainingGroup(Struct, frozen=True, kw_only=True):
    """A finished group as a trainer leases it: the group and one trajectory per rollout."""

    group: Group
    trajectories: list[Trajectory]


def pack(values: "Int32s | Float32s") -> bytes:
    """Return the array's little-endian bytes."""
    if sys.byteorder == "big":
        values = copy(values)
        values.byteswap()
    return values.tobytes()


def unpack_int32s(data: bytes) -> Int32s:
    """Read little-endian int32 values; raises ValueError unless the length is a multiple of 4."""
    return _unpack(Int32s(), data)


def unpack_float32s(data: bytes) -> Float32s:
    """Read little-endian float32 values; raises ValueError unless the length is a multiple of 4."""
    return _unpack(Float32s(), data)


ArrayT = TypeVar("ArrayT", Int32s, Float32s)


def _unpack(target: ArrayT, data: bytes) -> ArrayT:
    target.frombytes(data)
    if sys.byteorder == "big":
        target.byteswap()
    return target


def _enc_hook(value: Any) -> Any:
    if isinstance(value, Int32s | Float32s):
        return pack(value)
    raise NotImplementedError(f"a {type(value).__name__} cannot be part of a record")


def _dec_hook(kind: type, value: Any) -> Any:
    if kind is Int32s:
        return unpack_int32s(value)
    if kind is Float32s:
        return unpack_float32s(value)
    raise NotImplementedError(f"a {kind.__name__} cannot be part of a record")


_encoder = msgspec.msgpack.Encoder(enc_hook=_enc_hook)


def encode(record: Any) -> bytes:
    """Return a record, or a list or dict of records, as MessagePack."""
    return _encoder.encode(record)


def decode(data: bytes, kind: type[RecordT]) -> RecordT:
    """Read MessagePack into `kind`; raises `msgspec.DecodeError` or `msgspec.ValidationError` naming the path."""
    return msgspec.msgpack.decode(data, type=kind, dec_hook=_dec_hook)
