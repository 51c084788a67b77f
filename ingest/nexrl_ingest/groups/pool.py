"""The pool of finished groups: which are ready, who holds which, and until when.

A lease is a row, so it survives a restart. Time is handed in; waiting for a group is `waiting.py`'s part, and what a
rule makes of a group is decided in `rules.py`.
"""

import secrets
from collections.abc import Iterable
from typing import NamedTuple

from nexrl.records import Outcome, TrainingGroup, decode, encode
from nexrl_ingest.groups import ledger
from nexrl_ingest.groups.rules import SECOND_NS, RolloutFacts, Rule, Verdict, is_ready, judge
from nexrl_ingest.refusals import ConflictError, NotFoundError
from nexrl_ingest.store import Connection
from nexrl_ingest.wire import Leased, LeaseRequest

MOST_GRANTED = 256
"""Groups per answer, whatever its size."""
WHOLE_GROUP = -1
"""Stands for the rollout where a group as a whole was dropped; below every rollout."""
_FINAL = (
    "(SELECT count(*) FROM attempts JOIN outcomes ON outcomes.attempt = attempts.id "
    "WHERE attempts.group_id = groups.id AND outcomes.final = 1)"
)
_UNLEASED = (
    "FROM groups WHERE run = ? AND mode = 'train' AND done = 0 AND NOT EXISTS "
    "(SELECT 1 FROM leases WHERE group_id = groups.id AND state = 'leased')"
)
_LAST = 2**62


class Grant(NamedTuple):
    """A lease on a group."""

    lease: str
    group: str


def put_rule(connection: Connection, run: str, rule: Rule) -> None:
    """Set a run's rule; it counts from the next lease on."""
    connection.execute(
        "INSERT INTO rules (run, body) VALUES (?, ?) ON CONFLICT (run) DO UPDATE SET body = excluded.body",
        (run, encode(rule)),
    )


def rule_of(connection: Connection, run: str) -> Rule:
    row = connection.fetch_one("SELECT body FROM rules WHERE run = ?", (run,))
    return decode(row[0], Rule) if row else Rule()


def lease(connection: Connection, request: LeaseRequest, now_ns: int) -> list[Grant]:
    """Lease ready groups of a run, the oldest first; leases that ran out make their groups ready.

    A request with a name that was granted something before, and whose leases last, is granted that again.
    """
    connection.execute(
        "UPDATE leases SET state = 'expired' WHERE run = ? AND state = 'leased' AND expires_ns <= ?",
        (request.run, now_ns),
    )
    if held := _granted_before(connection, request):
        return held
    if request.steal:
        connection.execute("UPDATE leases SET state = 'expired' WHERE run = ? AND state = 'leased'", (request.run,))
    chosen = _choose(connection, request, now_ns)
    grants = [Grant(secrets.token_hex(16), group) for group in chosen]
    expires_ns = now_ns + int(request.lease_s * SECOND_NS)
    connection.executemany(
        "INSERT INTO leases (id, group_id, run, state, expires_ns, request) VALUES (?, ?, ?, 'leased', ?, ?)",
        [(grant.lease, grant.group, request.run, expires_ns, request.request) for grant in grants],
    )
    return grants


def ack(connection: Connection, leases: Iterable[str], now_ns: int) -> int:
    """Take groups out of the pool for good; return how many of them were not before.

    Raises ConflictError for a lease that ran out or was given back.
    """
    taken = 0
    for lease_id in leases:
        group, state = _held(connection, lease_id, now_ns)
        if state not in {"leased", "acked"}:
            raise ConflictError(
                f"lease {lease_id!r} of group {group!r} is {state}: the group went back to the pool; lease it again"
            )
        if state == "leased":
            connection.execute("UPDATE leases SET state = 'acked' WHERE id = ?", (lease_id,))
            connection.execute("UPDATE groups SET done = 1 WHERE id = ?", (group,))
            taken += 1
    return taken


def nack(connection: Connection, leases: Iterable[str], now_ns: int) -> None:
    """Give groups back; raises ConflictError for a lease that was acked."""
    for lease_id in leases:
        group, state = _held(connection, lease_id, now_ns)
        if state == "acked":
            raise ConflictError(f"lease {lease_id!r} of group {group!r} is acked: a done group cannot be given back")
        if state == "leased":
            connection.execute("UPDATE leases SET state = 'nacked' WHERE id = ?", (lease_id,))


def drop_unreadable(connection: Connection, run: str, grant: Grant) -> None:
    """Take a leased group that cannot be assembled out of the pool for good, and end its lease."""
    _record(connection, run, grant.group, Verdict("unreadable"))
    connection.execute("UPDATE leases SET state = 'nacked' WHERE id = ? AND state = 'leased'", (grant.lease,))


def next_expiry(connection: Connection, run: str) -> int | None:
    """Return when the next lease of a run ends, in Unix nanoseconds; None where none is held."""
    [[expires_ns]] = connection.fetch("SELECT min(expires_ns) FROM leases WHERE run = ? AND state = 'leased'", (run,))
    return expires_ns


def more_are_ready(connection: Connection, run: str) -> bool:
    """Whether complete groups of a run wait to be leased."""
    return bool(connection.fetch_one(f"SELECT 1 {_UNLEASED} AND ready IS NOT NULL LIMIT 1", (run,)))


def training_group(connection: Connection, grant: Grant) -> Leased:
    """Assemble a leased group from the log as it stands now, without the rollouts that a rule left out.

    Raises UnreadableError where a call of it cannot be read.
    """
    group = ledger.group_of(connection, grant.group)
    assert group
    dropped = connection.fetch("SELECT rollout FROM drops WHERE group_id = ?", (grant.group,))
    attempts = [item for item in ledger.final_attempts(connection, grant.group) if (item.rollout,) not in dropped]
    trajectories = [ledger.trajectory_of(connection, attempt.id) for attempt in attempts]
    return Leased(lease=grant.lease, group=TrainingGroup(group=group, trajectories=trajectories))


def _granted_before(connection: Connection, request: LeaseRequest) -> list[Grant]:
    if request.request is None:
        return []
    query = "SELECT id, group_id FROM leases WHERE run = ? AND request = ? AND state = 'leased' ORDER BY seq"
    return [Grant(*row) for row in connection.fetch(query, (request.run, request.request))]


def _choose(connection: Connection, request: LeaseRequest, now_ns: int) -> list[str]:
    """Return the groups to lease; what the rule drops on the way is recorded."""
    rule = request.rule or rule_of(connection, request.run)
    limit, chosen = min(request.limit, MOST_GRANTED), list[str]()
    for group, size in _candidates(connection, request.run, rule, limit):
        verdict = _verdict(connection, group, size, rule, request.weight_version, now_ns)
        if verdict is None:
            continue
        _record(connection, request.run, group, verdict)
        if verdict.dropped is None:
            chosen.append(group)
        if len(chosen) == limit:
            break
    return chosen


def _candidates(connection: Connection, run: str, rule: Rule, limit: int) -> list[tuple[str, int]]:
    """Return groups that may be ready, with their sizes: the complete ones first, in the order they became so."""
    order = f"ORDER BY coalesce(ready, {_LAST}), seq"
    if rule == Rule():
        rows = connection.fetch(f"SELECT id, size {_UNLEASED} AND ready IS NOT NULL {order} LIMIT ?", (run, limit))
    elif rule.quorum is None:
        rows = connection.fetch(f"SELECT id, size {_UNLEASED} AND ready IS NOT NULL {order}", (run,))
    else:
        complete = f"(ready IS NOT NULL OR {_FINAL} >= ?)"
        rows = connection.fetch(f"SELECT id, size {_UNLEASED} AND {complete} {order}", (run, rule.quorum))
    return [(id_, size) for id_, size in rows]


def _verdict(
    connection: Connection, group: str, size: int, rule: Rule, weight_version: int | None, now_ns: int
) -> Verdict | None:
    """Return what the rule says of a group; None where it is not ready."""
    if rule == Rule():
        return Verdict()
    rollouts = _facts(connection, group, rule, weight_version)
    if rollouts is None or not is_ready(rule, size, [one.final_ns for one in rollouts], now_ns):
        return None
    return judge(rule, size, rollouts, weight_version)


def _facts(connection: Connection, group: str, rule: Rule, weight_version: int | None) -> list[RolloutFacts] | None:
    """Return what a rule asks of the final rollouts; None where their weight versions are not known yet."""
    query = (
        "SELECT attempts.id, attempts.rollout, outcomes.at_ns, outcomes.body, measures.session, measures.oldest "
        "FROM attempts JOIN outcomes ON outcomes.attempt = attempts.id "
        "LEFT JOIN measures ON measures.session = attempts.id WHERE attempts.group_id = ? AND outcomes.final = 1"
    )
    asks_age = rule.max_staleness is not None and weight_version is not None
    found: list[RolloutFacts] = []
    for attempt, rollout, at_ns, body, measured, oldest in connection.fetch(query, (group,)):
        if asks_age and measured is None:
            return None
        failed = decode(body, Outcome).status == "failed"
        rewards = ledger.named(ledger.rewards_of(connection, attempt))
        found.append(RolloutFacts(rollout, failed, at_ns, rewards, oldest))
    return found


def _record(connection: Connection, run: str, group: str, verdict: Verdict) -> None:
    """Keep what was dropped: it stays dropped whoever leases the group, and is counted."""
    if verdict.dropped:
        dropped = [(run, group, WHOLE_GROUP, verdict.dropped)]
        connection.execute("UPDATE groups SET done = 1 WHERE id = ?", (group,))
    else:
        dropped = [(run, group, rollout, reason) for rollout, reason in verdict.left_out.items()]
    connection.executemany(
        "INSERT INTO drops (run, group_id, rollout, reason) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (group_id, rollout) DO NOTHING",
        dropped,
    )


def _held(connection: Connection, lease_id: str, now_ns: int) -> tuple[str, str]:
    """Return a lease's group and what became of it."""
    query = "SELECT group_id, state, expires_ns FROM leases WHERE id = ?"
    row = connection.fetch_one(query, (lease_id,))
    if not row:
        raise NotFoundError(f"lease {lease_id!r} is unknown; ack and nack the leases this ingest gave out")
    group, state, expires_ns = row
    return group, "expired" if state == "leased" and expires_ns <= now_ns else state
