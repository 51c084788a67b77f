"""A recorded session as flat rows, one per sequence: what exports hold and replays compare. Pure."""

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from nexrl.records import Call, Sequence
from nexrl.rewards import TOTAL
from nexrl_ingest.commands.sources import Recorded
from nexrl_ingest.groups import ledger


class Row(Struct, frozen=True, kw_only=True):
    """One sequence of one rollout; the lists are empty for a rollout that has none."""

    run: str
    group: str
    mode: Literal["train", "eval"]
    task: str
    fields: dict[str, Any]
    """The task's row in its dataset."""
    rollout: int
    session: str
    status: str
    reason: str
    reward: float | None
    """The trainer's total; None where there is none."""
    rewards: dict[str, float]
    sequence: int
    """Its number in the rollout; -1 for a rollout without sequences."""
    agent: str | None
    policy: str
    """Which of several models that learn sampled it; empty for the first."""
    calls: list[str]
    ids: list[int]
    loss_mask: list[int]
    logprobs: list[float]
    """0 where the mask is 0."""
    weight_versions: list[int]
    """-1 where the mask is 0."""
    temperatures: list[float]
    messages: list[dict[str, Any]]
    """The conversation along the chain, replies included."""


def rows_of(found: Recorded) -> list[Row]:
    """Return the rows of a rollout that belongs to a group."""
    assert found.group
    assert found.attempt
    trajectory, group = found.trajectory, found.group.group
    rewards = ledger.named(trajectory.rewards)
    calls = {call.id: call for call in found.calls}
    common: dict[str, Any] = {
        "run": group.run,
        "group": group.id,
        "mode": group.mode,
        "task": group.task.id,
        "fields": group.task.fields,
        "rollout": found.attempt.attempt.rollout,
        "session": trajectory.session,
        "status": trajectory.status,
        "reason": trajectory.reason,
        "reward": rewards.get(TOTAL),
        "rewards": rewards,
    }
    if not trajectory.sequences:
        return [Row(**common, **_laid(-1, None, calls))]
    return [Row(**common, **_laid(number, one, calls)) for number, one in enumerate(trajectory.sequences)]


def _laid(number: int, sequence: Sequence | None, calls: Mapping[str, Call]) -> dict[str, Any]:
    if sequence is None:
        lists = ("calls", "ids", "loss_mask", "logprobs", "weight_versions", "temperatures", "messages")
        return {"sequence": number, "agent": None, "policy": ""} | {name: [] for name in lists}
    return {
        "sequence": number,
        "agent": sequence.agent,
        "policy": sequence.policy,
        "calls": sequence.calls,
        "ids": list(sequence.ids),
        "loss_mask": list(sequence.loss_mask),
        "logprobs": list(sequence.logprobs),
        "weight_versions": list(sequence.weight_versions),
        "temperatures": list(sequence.temperatures),
        "messages": conversation(sequence.calls, calls),
    }


def conversation(chain: list[str], calls: Mapping[str, Call]) -> list[dict[str, Any]]:
    """Return the messages up to the end of a chain, those before a branch included."""
    line = list(chain)
    while (parent := calls[line[0]].parent) and parent in calls:
        line.insert(0, parent)
    # A call without a named parent brings the whole conversation.
    start = max((place for place, id_ in enumerate(line) if calls[id_].parent is None), default=0)
    return [message for id_ in line[start:] for message in (*calls[id_].messages, calls[id_].reply)]
