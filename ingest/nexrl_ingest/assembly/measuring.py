"""How well calls merged into sequences: merge ratio, drift rate and trained-token share.

`measured` is pure; `measure` keeps its results beside the log, so that a run's totals are sums of rows.
"""

from collections.abc import Iterable, Sequence
from functools import partial
from typing import NamedTuple

from nexrl.records import Call, Trajectory
from nexrl_ingest.assembly import sequences
from nexrl_ingest.groups import ledger
from nexrl_ingest.refusals import UnreadableError
from nexrl_ingest.span_log import calls_of, count_calls
from nexrl_ingest.store import Connection, Store
from nexrl_ingest.wire import Measures

PER_READ = 32
PER_REQUEST = 256
"""Sessions measured while somebody waits; the others are measured when they ask again."""


class Counts(NamedTuple):
    """One session's row."""

    arrived: int
    sequences: int
    calls: int
    tokens: int
    trained: int
    drifted: int
    oldest: int | None
    """The oldest weight version that sampled a trained token."""


def counts(calls: Sequence[Call], trajectory: Trajectory) -> Counts:
    """Count what came of a session's calls."""
    laid = trajectory.sequences
    versions = (version for one in laid for version in one.weight_versions if version >= 0)
    return Counts(
        arrived=len(calls),
        sequences=len(laid),
        calls=sum(len(one.calls) for one in laid),
        tokens=sum(len(one.ids) for one in laid),
        trained=sum(sum(one.loss_mask) for one in laid),
        drifted=sum(call.drift is not None for call in sequences.once(calls)),
        oldest=min(versions, default=None),
    )


def measures(rows: Iterable[Counts]) -> Measures:
    """Add up sessions."""
    rows = list(rows)
    arrived, sequences, calls, tokens, trained, drifted = (sum(row[index] or 0 for row in rows) for index in range(6))
    return Measures(
        sessions=len(rows),
        calls=arrived,
        sequences=sequences,
        tokens=tokens,
        trained=trained,
        drifted=drifted,
        merge_ratio=calls / sequences if sequences else None,
        drift_rate=drifted / arrived if arrived else None,
        trained_share=trained / tokens if tokens else None,
    )


async def measure(store: Store, run: str, *, most: int = PER_REQUEST) -> None:
    """Measure final rollouts of a run that were not, or that further calls arrived for since."""
    left = most
    while left > 0:
        found = await store.read(partial(_unmeasured, run=run, limit=min(left, PER_READ)))
        if not found:
            return
        await store.write(partial(_keep, rows=found))
        left -= len(found)


def of_run(connection: Connection, run: str) -> Measures:
    """Return what is known of a run's final rollouts."""
    query = (
        "SELECT arrived, sequences, calls, tokens, trained, drifted, oldest FROM measures "
        "JOIN attempts ON attempts.id = measures.session JOIN groups ON groups.id = attempts.group_id WHERE run = ?"
    )
    return measures(Counts(*row) for row in connection.fetch(query, (run,)))


def _unmeasured(connection: Connection, run: str, limit: int) -> list[tuple[str, Counts]]:
    query = (
        "SELECT attempts.id FROM groups JOIN attempts ON attempts.group_id = groups.id "
        "JOIN outcomes ON outcomes.attempt = attempts.id LEFT JOIN measures ON measures.session = attempts.id "
        "WHERE groups.run = ? AND outcomes.final = 1 AND (measures.session IS NULL OR measures.arrived <> "
        "(SELECT count(*) FROM spans WHERE spans.session = attempts.id AND spans.is_call = 1)) LIMIT ?"
    )
    return [(session, _counted(connection, session)) for [session] in connection.fetch(query, (run, limit))]


def _counted(connection: Connection, session: str) -> Counts:
    """Count a session; of one that cannot be read it is known only how many calls arrived."""
    try:
        return counts(calls_of(connection, session), ledger.trajectory_of(connection, session))
    except UnreadableError:
        return Counts(
            count_calls(connection, session), sequences=0, calls=0, tokens=0, trained=0, drifted=0, oldest=None
        )


def _keep(connection: Connection, rows: Sequence[tuple[str, Counts]]) -> None:
    columns = ", ".join(Counts._fields)
    changed = ", ".join(f"{name} = excluded.{name}" for name in Counts._fields)
    connection.executemany(
        f"INSERT INTO measures (session, {columns}) VALUES (?, ?, ?, ?, ?, ?, ?, ?) "  # noqa: S608 - names of our own
        f"ON CONFLICT (session) DO UPDATE SET {changed}",
        [(session, *row) for session, row in rows],
    )
