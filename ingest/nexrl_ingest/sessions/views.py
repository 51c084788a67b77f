"""Sessions and trajectories as JSON, for people and for `curl`: the shapes, and how they are filled."""

from typing import Any, Literal

from msgspec import Struct

from nexrl.records import Call, Drift, Int32s, Reward, Sequence, Status
from nexrl_ingest.assembly import measuring, sequences
from nexrl_ingest.groups import ledger
from nexrl_ingest.span_log import calls_of
from nexrl_ingest.steps.reading import steps_of
from nexrl_ingest.steps.step import Step
from nexrl_ingest.store import Connection
from nexrl_ingest.wire import Measures


class CallView(Struct, frozen=True, kw_only=True):
    """A model call without its tokens."""

    id: str
    parent: str | None
    """The call it extends, as the proxy named it; `messages` are what that one does not have."""
    extends: str | None
    """The call whose tokens its prompt begins with, named or found; None where it heads a chain."""
    model: str
    prompt_tokens: int | None
    """Of the whole prompt; None where an ancestor is missing."""
    completion_tokens: int
    finish_reason: str
    weight_versions: list[int]
    """The first and the last that sampled it."""
    drift: str | None
    exact: bool
    agent: str | None
    policy: str
    """Which of several models that learn sampled it; empty for the first."""
    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]] | None
    reply: dict[str, Any]
    started_ns: int
    ended_ns: int


class SessionView(Struct, frozen=True, kw_only=True):
    """What is known of a session."""

    session: str
    status: Status
    reason: str
    calls: list[CallView]
    chains: list[list[str]]
    """Ids of the calls of each sequence."""
    drift: list[Drift]
    rewards: list[Reward]
    measures: Measures
    steps: list[Step]
    """What the agent's own spans tell: tools, agents, chains, and models as its instrumentation saw them."""


class SequenceView(Struct, frozen=True, kw_only=True):
    """A chain laid out for training; all lists have the same length."""

    ids: list[int]
    loss_mask: list[Literal[0, 1]]
    logprobs: list[float | None]
    """None where the mask is 0."""
    weight_versions: list[int | None]
    """None where the mask is 0."""
    temperatures: list[float]
    agent: str | None
    policy: str


class TrajectoryView(Struct, frozen=True, kw_only=True):
    """What a trainer receives of a session, in lists."""

    session: str
    status: Status
    rewards: list[Reward]
    sequences: list[SequenceView]
    drift: list[Drift]


def session(connection: Connection, session_id: str) -> SessionView:
    """Return a session's calls, chains, drift and rewards; raises NotFoundError for one nobody knows."""
    trajectory = ledger.trajectory_of(connection, session_id)
    arrived = calls_of(connection, session_id)
    lengths, extended = sequences.prompt_lengths(arrived), sequences.extended(arrived)
    return SessionView(
        session=session_id,
        status=trajectory.status,
        reason=trajectory.reason,
        calls=[_call(call, lengths.get(call.id), extended.get(call.id)) for call in sequences.once(arrived)],
        chains=[sequence.calls for sequence in trajectory.sequences],
        drift=trajectory.drift,
        rewards=trajectory.rewards,
        measures=measuring.measures([measuring.counts(arrived, trajectory)]),
        steps=steps_of(connection, session_id),
    )


def trajectory(connection: Connection, session_id: str) -> TrajectoryView:
    """Return a session's sequences as plain lists; raises NotFoundError for one nobody knows."""
    found = ledger.trajectory_of(connection, session_id)
    return TrajectoryView(
        session=session_id,
        status=found.status,
        rewards=found.rewards,
        sequences=[_sequence(sequence) for sequence in found.sequences],
        drift=found.drift,
    )


def _call(call: Call, prompt_tokens: int | None, extends: str | None) -> CallView:
    return CallView(
        id=call.id,
        parent=call.parent,
        extends=extends,
        model=call.model,
        prompt_tokens=prompt_tokens,
        completion_tokens=len(call.completion),
        finish_reason=call.finish_reason,
        weight_versions=_first_and_last(call.weight_versions),
        drift=call.drift,
        exact=call.exact,
        agent=call.agent,
        policy=call.policy,
        messages=call.messages,
        tools=call.tools,
        reply=call.reply,
        started_ns=call.started_ns,
        ended_ns=call.ended_ns,
    )


def _first_and_last(versions: Int32s) -> list[int]:
    return [versions[0], versions[-1]] if versions else []


def _sequence(sequence: Sequence) -> SequenceView:
    mask = sequence.loss_mask
    return SequenceView(
        ids=list(sequence.ids),
        loss_mask=[1 if kept else 0 for kept in mask],
        logprobs=[value if kept else None for value, kept in zip(sequence.logprobs, mask, strict=True)],
        weight_versions=[value if kept else None for value, kept in zip(sequence.weight_versions, mask, strict=True)],
        temperatures=list(sequence.temperatures),
        agent=sequence.agent,
        policy=sequence.policy,
    )
