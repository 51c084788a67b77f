"""The pool of finished groups: which are ready, who holds which, and until when.

A lease is a row, so it survives a restart. Time is handed in; waiting for a group is `app.py`'s part.
"""

import secrets
import sqlite3
from collections.abc import Iterable
from typing import NamedTuple

from nexrl.records import Group, Mode, TrainingGroup, decode
from nexrl_ingest import ledger
from nexrl_ingest.refusals import ConflictError, NotFoundError
from nexrl_ingest.wire import GroupState, Leased, LeaseRequest, State

SECOND_NS = 1_000_000_000


class Grant(NamedTuple):
    """A lease on a group."""

    lease: str
    group: str


def state_of(*, mode: Mode, size: int, final: int, done: bool, leased: bool) -> State:
    """Say where a group stands; a group of mode `eval` is done once it is complete, for nobody leases it."""
    if final < size:
        return "open"
    if done or mode == "eval":
        return "done"
    return "leased" if leased else "ready"


def lease(connection: sqlite3.Connection, request: LeaseRequest, now_ns: int) -> list[Grant]:
    """Lease ready groups of a run, the oldest first; leases that ran out make their groups ready."""
    if request.steal:
        connection.execute("UPDATE leases SET state = 'expired' WHERE run = ? AND state = 'leased'", (request.run,))
    connection.execute(
        "UPDATE leases SET state = 'expired' WHERE run = ? AND state = 'leased' AND expires_ns <= ?",
        (request.run, now_ns),
    )
    query = (
        "SELECT id FROM groups WHERE run = ? AND mode = 'train' AND done = 0 AND ready IS NOT NULL AND NOT EXISTS "
        "(SELECT 1 FROM leases WHERE group_id = groups.id AND state = 'leased') ORDER BY ready LIMIT ?"
    )
    found = connection.execute(query, (request.run, request.limit)).fetchall()
    grants = [Grant(secrets.token_hex(16), group) for [group] in found]
    expires_ns = now_ns + int(request.lease_s * SECOND_NS)
    connection.executemany(
        "INSERT INTO leases (id, group_id, run, state, expires_ns) VALUES (?, ?, ?, 'leased', ?)",
        [(grant.lease, grant.group, request.run, expires_ns) for grant in grants],
    )
    return grants


def ack(connection: sqlite3.Connection, leases: Iterable[str], now_ns: int) -> None:
    """Take groups out of the pool for good; raises ConflictError for a lease that ran out or was given back."""
    for lease_id in leases:
        group, state = _held(connection, lease_id, now_ns)
        if state not in {"leased", "acked"}:
            raise ConflictError(
                f"lease {lease_id!r} of group {group!r} is {state}: the group went back to the pool; lease it again"
            )
        connection.execute("UPDATE leases SET state = 'acked' WHERE id = ?", (lease_id,))
        connection.execute("UPDATE groups SET done = 1 WHERE id = ?", (group,))


def nack(connection: sqlite3.Connection, leases: Iterable[str], now_ns: int) -> None:
    """Give groups back; raises ConflictError for a lease that was acked."""
    for lease_id in leases:
        group, state = _held(connection, lease_id, now_ns)
        if state == "acked":
            raise ConflictError(f"lease {lease_id!r} of group {group!r} is acked: a done group cannot be given back")
        if state == "leased":
            connection.execute("UPDATE leases SET state = 'nacked' WHERE id = ?", (lease_id,))


def training_groups(connection: sqlite3.Connection, grants: Iterable[Grant]) -> list[Leased]:
    """Assemble leased groups from the log as it stands now."""
    return [Leased(lease=grant.lease, group=_training_group(connection, grant.group)) for grant in grants]


def groups(connection: sqlite3.Connection, run: str, now_ns: int) -> list[GroupState]:
    """Return every group of a run, in order of creation."""
    query = (
        "SELECT body, done, EXISTS (SELECT 1 FROM leases WHERE group_id = groups.id AND state = 'leased' "
        "AND expires_ns > ?) FROM groups WHERE run = ? ORDER BY seq"
    )
    return [
        _group_state(connection, decode(body, Group), done=bool(done), leased=bool(leased))
        for body, done, leased in connection.execute(query, (now_ns, run)).fetchall()
    ]


def _group_state(connection: sqlite3.Connection, group: Group, *, done: bool, leased: bool) -> GroupState:
    attempts = ledger.final_attempts(connection, group.id)
    return GroupState(
        id=group.id,
        task=group.task.id,
        mode=group.mode,
        size=group.size,
        final=len(attempts),
        state=state_of(mode=group.mode, size=group.size, final=len(attempts), done=done, leased=leased),
        outcomes=[ledger.rollout_state(connection, attempt) for attempt in attempts],
    )


def _training_group(connection: sqlite3.Connection, group_id: str) -> TrainingGroup:
    [body] = connection.execute("SELECT body FROM groups WHERE id = ?", (group_id,)).fetchone()
    attempts = ledger.final_attempts(connection, group_id)
    trajectories = [ledger.trajectory_of(connection, attempt.id) for attempt in attempts]
    return TrainingGroup(group=decode(body, Group), trajectories=trajectories)


def _held(connection: sqlite3.Connection, lease_id: str, now_ns: int) -> tuple[str, str]:
    """Return a lease's group and what became of it."""
    query = "SELECT group_id, state, expires_ns FROM leases WHERE id = ?"
    row = connection.execute(query, (lease_id,)).fetchone()
    if not row:
        raise NotFoundError(f"lease {lease_id!r} is unknown; ack and nack the leases this ingest gave out")
    group, state, expires_ns = row
    return group, "expired" if state == "leased" and expires_ns <= now_ns else state
