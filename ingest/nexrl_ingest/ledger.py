"""Groups, attempts, outcomes and rewards: what the trainer says about the sessions it planned.

Every creation is idempotent: the same content again changes nothing, other content under the same id is refused.
Which groups may be leased is decided in `pool.py`.
"""

import sqlite3
from collections.abc import Sequence
from typing import TypeVar

from nexrl.records import Attempt, Group, Outcome, Reward, Trajectory, decode, encode
from nexrl_ingest import assembly
from nexrl_ingest.refusals import CallsMissingError, ConflictError, NotFoundError, RefusedError
from nexrl_ingest.span_log import calls_of, count_calls
from nexrl_ingest.wire import RolloutState

T = TypeVar("T")
AGENT = "agent"


def put_group(connection: sqlite3.Connection, group: Group) -> None:
    if group.size < 1:
        raise RefusedError(f"group {group.id!r}: size {group.size} has no rollouts; use 1 or more")
    row = connection.execute("SELECT body FROM groups WHERE id = ?", (group.id,)).fetchone()
    if row:
        _same(f"group {group.id!r}", decode(row[0], Group), group)
        return
    connection.execute(
        "INSERT INTO groups (id, run, mode, size, body) VALUES (?, ?, ?, ?, ?)",
        (group.id, group.run, group.mode, group.size, encode(group)),
    )


def put_attempt(connection: sqlite3.Connection, attempt: Attempt) -> None:
    row = connection.execute("SELECT size FROM groups WHERE id = ?", (attempt.group,)).fetchone()
    if not row:
        raise NotFoundError(f"attempt {attempt.id!r}: group {attempt.group!r} is unknown; create the group first")
    if not 0 <= attempt.rollout < row[0]:
        raise RefusedError(f"attempt {attempt.id!r}: rollout {attempt.rollout} is not in a group of {row[0]}")
    if known := attempt_of(connection, attempt.id):
        _same(f"attempt {attempt.id!r}", known, attempt)
        return
    connection.execute(
        "INSERT INTO attempts (id, group_id, rollout) VALUES (?, ?, ?)",
        (attempt.id, attempt.group, attempt.rollout),
    )


def put_outcome(connection: sqlite3.Connection, attempt: str, outcome: Outcome, now_ns: int) -> None:
    """Finish an attempt; with the last final outcome of a group the group becomes ready."""
    known = attempt_of(connection, attempt)
    if not known:
        raise NotFoundError(f"attempt {attempt!r} is unknown; create it before its outcome")
    if earlier := outcome_of(connection, attempt):
        _same(f"outcome of attempt {attempt!r}", earlier, outcome)
        return
    arrived = count_calls(connection, attempt)
    if outcome.calls is not None and arrived < outcome.calls:
        raise CallsMissingError(
            f"attempt {attempt!r}: {arrived} of {outcome.calls} calls have arrived; "
            "send the outcome again once the proxy has delivered the others"
        )
    if outcome.final and (rival := _final_attempt(connection, known.group, known.rollout)):
        raise ConflictError(
            f"attempt {attempt!r}: rollout {known.rollout} of group {known.group!r} is final "
            f"with attempt {rival!r}; a rollout has one final attempt"
        )
    cursor = connection.execute(
        "INSERT INTO outcomes (attempt, final, body) VALUES (?, ?, ?)", (attempt, outcome.final, encode(outcome))
    )
    for reward in outcome.rewards:
        put_reward(connection, attempt, reward, now_ns)
    if outcome.final and count_final(connection, known.group) == _size(connection, known.group):
        connection.execute("UPDATE groups SET ready = ? WHERE id = ?", (cursor.lastrowid, known.group))


def put_reward(connection: sqlite3.Connection, session: str, reward: Reward, now_ns: int) -> None:
    connection.execute(
        "INSERT INTO rewards (session, name, value, call, by, at_ns) VALUES (?, ?, ?, ?, ?, ?)",
        (session, reward.name, reward.value, reward.call, reward.by, reward.at_ns or now_ns),
    )


def attempt_of(connection: sqlite3.Connection, attempt: str) -> Attempt | None:
    row = connection.execute("SELECT group_id, rollout FROM attempts WHERE id = ?", (attempt,)).fetchone()
    return Attempt(id=attempt, group=row[0], rollout=row[1]) if row else None


def outcome_of(connection: sqlite3.Connection, attempt: str) -> Outcome | None:
    row = connection.execute("SELECT body FROM outcomes WHERE attempt = ?", (attempt,)).fetchone()
    return decode(row[0], Outcome) if row else None


def rewards_of(connection: sqlite3.Connection, session: str) -> list[Reward]:
    query = "SELECT name, value, call, by, at_ns FROM rewards WHERE session = ? ORDER BY seq"
    return [
        Reward(name=name, value=value, call=call, by=by, at_ns=at_ns)
        for name, value, call, by, at_ns in connection.execute(query, (session,))
    ]


def knows(connection: sqlite3.Connection, session: str) -> bool:
    """Whether anything was ever said about a session."""
    query = (
        "SELECT EXISTS (SELECT 1 FROM spans WHERE session = :id) OR EXISTS (SELECT 1 FROM attempts WHERE id = :id) "
        "OR EXISTS (SELECT 1 FROM rewards WHERE session = :id)"
    )
    return bool(connection.execute(query, {"id": session}).fetchone()[0])


def trajectory_of(connection: sqlite3.Connection, session: str) -> Trajectory:
    """Assemble a session's trajectory; raises NotFoundError for a session nobody knows."""
    if not knows(connection, session):
        raise NotFoundError(f"session {session!r} is unknown; no span, attempt or reward names it")
    attempt = attempt_of(connection, session)
    return assembly.trajectory(
        session,
        attempt.rollout if attempt else None,
        calls_of(connection, session),
        rewards_of(connection, session),
        outcome_of(connection, session),
    )


def final_attempts(connection: sqlite3.Connection, group: str) -> list[Attempt]:
    """Return the attempts that count, in order of rollout."""
    query = (
        "SELECT attempts.id, rollout FROM attempts JOIN outcomes ON attempt = attempts.id "
        "WHERE group_id = ? AND final = 1 ORDER BY rollout"
    )
    return [Attempt(id=id_, group=group, rollout=rollout) for id_, rollout in connection.execute(query, (group,))]


def count_final(connection: sqlite3.Connection, group: str) -> int:
    return len(final_attempts(connection, group))


def rollout_state(connection: sqlite3.Connection, attempt: Attempt) -> RolloutState:
    outcome = outcome_of(connection, attempt.id)
    assert outcome
    return RolloutState(
        rollout=attempt.rollout,
        attempt=attempt.id,
        status=outcome.status,
        reason=outcome.reason,
        rewards=named(rewards_of(connection, attempt.id)),
    )


def named(rewards: Sequence[Reward]) -> dict[str, float]:
    """Return the rewards of a rollout as a whole by name: the latest counts, and an agent's own never hides another."""
    whole = sorted((item for item in rewards if item.call is None), key=lambda item: item.by != AGENT)
    return {item.name: item.value for item in whole}


def _final_attempt(connection: sqlite3.Connection, group: str, rollout: int) -> str | None:
    found = [attempt.id for attempt in final_attempts(connection, group) if attempt.rollout == rollout]
    return found[0] if found else None


def _size(connection: sqlite3.Connection, group: str) -> int:
    return connection.execute("SELECT size FROM groups WHERE id = ?", (group,)).fetchone()[0]


def _same(what: str, known: T, given: T) -> None:
    if known != given:
        raise ConflictError(f"{what} is known with other content: {known!r}; use a new id")
