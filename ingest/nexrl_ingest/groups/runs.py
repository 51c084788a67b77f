"""Runs as they stand: which there are, their groups a page at a time, and their totals."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

from nexrl.records import Group, Mode, Outcome, decode
from nexrl_ingest.assembly import measuring
from nexrl_ingest.groups import ledger
from nexrl_ingest.groups.pool import rule_of
from nexrl_ingest.refusals import NotFoundError
from nexrl_ingest.store import Connection
from nexrl_ingest.wire import GroupPage, GroupsQuery, GroupState, RunName, RunPage, RunsQuery, RunState, State

ROWS = 500
_GROUPS = (
    "SELECT seq, body, size, mode, done, "
    "(SELECT count(*) FROM attempts JOIN outcomes ON outcomes.attempt = attempts.id "
    "WHERE attempts.group_id = groups.id AND outcomes.final = 1), "
    "(SELECT count(*) FROM leases WHERE leases.group_id = groups.id AND state = 'leased' AND expires_ns > ?), "
    "(SELECT min(reason) FROM drops WHERE drops.group_id = groups.id AND rollout < 0) "
    "FROM groups WHERE run = ? AND seq > ?"
)


def state_of(*, mode: Mode, size: int, final: int, done: bool, leased: bool, dropped: bool = False) -> State:
    """Say where a group stands; a group of mode `eval` is done once it is complete, for nobody leases it.

    A group that a quorum makes ready is `open` until it is leased: only the request's rule knows.
    """
    if dropped:
        return "dropped"
    if mode == "eval":
        return "done" if final >= size else "open"
    if done:
        return "done"
    if leased:
        return "leased"
    return "ready" if final >= size else "open"


def listed(connection: Connection, query: RunsQuery) -> RunPage:
    """Return runs in the order of their names."""
    counted = "SELECT run, count(*) FROM groups WHERE run > ? GROUP BY run ORDER BY run LIMIT ?"
    rows = connection.fetch(counted, (query.after, query.limit + 1))
    found = [RunName(run=run, groups=count) for run, count in rows[: query.limit]]
    return RunPage(runs=found, next=found[-1].run if len(rows) > query.limit else None)


def groups(connection: Connection, run: str, query: GroupsQuery, now_ns: int) -> GroupPage:
    """Return a page of a run's groups, in order of creation."""
    found: list[GroupState] = []
    for seq, group, state, dropped in _standing(connection, run, query, now_ns):
        if query.state in {None, state}:
            found.append(_shown(connection, group, state, dropped))
        if len(found) == query.limit:
            return GroupPage(groups=found, next=seq)
    return GroupPage(groups=found, next=None)


def state(connection: Connection, run: str, now_ns: int) -> RunState:
    """Return a run's totals; raises NotFoundError for a run without groups."""
    states: Counter[State] = Counter()
    planned = 0
    for _, group, where, _ in _standing(connection, run, GroupsQuery(), now_ns):
        states[where] += 1
        planned += group.size
    if not states:
        raise NotFoundError(f"run {run!r} has no groups; `GET /api/runs` lists those there are")
    return RunState(
        run=run,
        groups=dict(states),
        rollouts={"planned": planned, **_final_rollouts(connection, run)},
        dropped=_dropped(connection, run),
        rule=rule_of(connection, run),
        measures=measuring.of_run(connection, run),
    )


def _standing(
    connection: Connection, run: str, query: GroupsQuery, now_ns: int
) -> Iterator[tuple[int, Group, State, str | None]]:
    """Go through a run's groups, a bounded number of rows at a time: where each stands, and why it was dropped."""
    marks = ", ".join("?" * len(query.id))
    chosen = f" AND id IN ({marks})" if query.id else ""
    after = query.after
    while rows := connection.fetch(f"{_GROUPS}{chosen} ORDER BY seq LIMIT ?", (now_ns, run, after, *query.id, ROWS)):
        for row in rows:
            yield _stands(row)
        after = rows[-1][0]


def _stands(row: tuple[Any, ...]) -> tuple[int, Group, State, str | None]:
    seq, body, size, mode, done, final, leased, dropped = row
    where = state_of(mode=mode, size=size, final=final, done=bool(done), leased=bool(leased), dropped=bool(dropped))
    return seq, decode(body, Group), where, dropped


def _shown(connection: Connection, group: Group, where: State, dropped: str | None) -> GroupState:
    attempts = ledger.final_attempts(connection, group.id)
    return GroupState(
        id=group.id,
        task=group.task.id,
        mode=group.mode,
        size=group.size,
        final=len(attempts),
        state=where,
        dropped=dropped,
        outcomes=[ledger.rollout_state(connection, attempt) for attempt in attempts],
    )


def _final_rollouts(connection: Connection, run: str) -> dict[str, int]:
    query = (
        "SELECT outcomes.body FROM groups JOIN attempts ON attempts.group_id = groups.id "
        "JOIN outcomes ON outcomes.attempt = attempts.id WHERE run = ? AND outcomes.final = 1"
    )
    statuses = Counter(decode(body, Outcome).status for [body] in connection.fetch(query, (run,)))
    return {status: statuses[status] for status in ("completed", "failed")}


def _dropped(connection: Connection, run: str) -> dict[str, int]:
    query = (
        "SELECT CASE WHEN rollout < 0 THEN 'group:' ELSE 'rollout:' END, reason, count(*) "
        "FROM drops WHERE run = ? GROUP BY 1, 2 ORDER BY 1, 2"
    )
    return {what + reason: count for what, reason, count in connection.fetch(query, (run,))}
