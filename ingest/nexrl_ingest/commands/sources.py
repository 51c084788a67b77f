"""Where what was captured is read from: the file of an ingest, or a running ingest over HTTP. The same answers."""

import contextlib
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Protocol, TypeVar

from msgspec import Struct

from nexrl.errors import RunError
from nexrl.keys import admin_key
from nexrl.records import Call, Reward, Trajectory
from nexrl_ingest.assembly import sequences
from nexrl_ingest.client import IngestClient
from nexrl_ingest.groups import ledger, runs
from nexrl_ingest.sessions import listing
from nexrl_ingest.span_log import calls_of
from nexrl_ingest.store import Connection
from nexrl_ingest.store.embedded import FILE, read_only
from nexrl_ingest.wire import (
    AttemptRecord,
    GroupRecord,
    GroupsQuery,
    GroupState,
    RunsQuery,
    SessionsQuery,
    SessionSummary,
)

T = TypeVar("T")
PAGE = 200
MOST_NAMED = 20
UNGROUPED = (
    "its sessions are in no group, since nobody planned them and no run has learned from them; "
    "`nexrl trajectories {0}` shows them, and GET /api/sessions/ID/trajectory has them as JSON"
)


class Source(Protocol):
    """What `IngestClient` answers too."""

    async def sessions(
        self, *, run: str | None = None, session: str | None = None, limit: int | None = None
    ) -> list[SessionSummary]: ...

    async def calls(self, session: str) -> list[Call]: ...

    async def rewards(self, session: str) -> list[Reward]: ...

    async def runs(self) -> list[str]: ...

    async def groups(self, run: str) -> list[GroupState]: ...

    async def group(self, group: str) -> GroupRecord: ...


class Recorded(Struct, frozen=True, kw_only=True):
    """A session with everything that was said of it."""

    run: str | None
    group: GroupRecord | None
    attempt: AttemptRecord | None
    calls: list[Call]
    trajectory: Trajectory
    tags: dict[str, str] = {}


@contextlib.asynccontextmanager
async def opened(where: str) -> AsyncGenerator[Source]:
    """Open a data directory, a run directory, or the URL of an ingest (with the key in NEXRL_ADMIN_KEY)."""
    if where.startswith(("http://", "https://")):
        async with IngestClient(where, admin_key(None), give_up_s=5.0) as client:
            yield client
    else:
        directory = Path(where)
        candidates = [directory / FILE, directory / "ingest" / FILE]
        path = next((path for path in candidates if path.is_file()), candidates[0])
        with read_only(path) as connection:
            yield FileSource(connection)


async def run_of(source: Source, where: str, run: str | None) -> str:
    """Return the run that is asked for, where none is named the only one; raises RunError where it cannot be told."""
    known = await source.runs()
    if run is None and len(known) == 1:
        return known[0]
    if run in known:
        return run
    if not known:
        captured = await source.sessions(limit=1)
        why = UNGROUPED.format(where) if captured else "nothing is captured there"
        raise RunError(f"{where}: it has no run: {why}")
    listed = f"it has {', '.join(known[:MOST_NAMED])}{' ...' * (len(known) > MOST_NAMED)}"
    raise RunError(f"{where}: {listed}; " + (f"none is called {run!r}" if run else "say which: --run NAME"))


async def recorded(source: Source, session: str, group: str | None) -> Recorded:
    """Return a session; `group` is the one that planned it, None where nobody did."""
    record = await source.group(group) if group is not None else None
    attempt = next((item for item in record.attempts if item.attempt.id == session), None) if record else None
    calls = await source.calls(session)
    rewards = attempt.rewards if attempt else await source.rewards(session)
    return Recorded(
        run=record.group.run if record else None,
        group=record,
        attempt=attempt,
        calls=calls,
        trajectory=sequences.trajectory(
            session,
            attempt.attempt.rollout if attempt else None,
            calls,
            rewards,
            attempt.outcome if attempt else None,
        ),
    )


class FileSource:
    """Reads a file that a running ingest may be writing to, and never writes it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def sessions(
        self, *, run: str | None = None, session: str | None = None, limit: int | None = None
    ) -> list[SessionSummary]:
        found: list[SessionSummary] = []
        before: int | None = None
        while True:
            size = min(PAGE, limit - len(found)) if limit else PAGE
            query = SessionsQuery(run=run, session=session, before=before, limit=size)
            page = listing.sessions(self._connection, query)
            found += page.sessions
            before = page.next
            if before is None or (limit and len(found) >= limit):
                return found

    async def calls(self, session: str) -> list[Call]:
        return self._known(session, lambda: sequences.once(calls_of(self._connection, session)))

    async def rewards(self, session: str) -> list[Reward]:
        return self._known(session, lambda: ledger.rewards_of(self._connection, session))

    async def runs(self) -> list[str]:
        found: list[str] = []
        after: str | None = ""
        while after is not None:
            page = runs.listed(self._connection, RunsQuery(after=after, limit=PAGE))
            found += [item.run for item in page.runs]
            after = page.next
        return found

    async def groups(self, run: str) -> list[GroupState]:
        found: list[GroupState] = []
        after: int | None = 0
        while after is not None:
            page = runs.groups(self._connection, run, GroupsQuery(after=after, limit=PAGE), 0)
            found += page.groups
            after = page.next
        return found

    async def group(self, group: str) -> GroupRecord:
        return ledger.group_record(self._connection, group)

    def _known(self, session: str, read: Callable[[], T]) -> T:
        ledger.require_known(self._connection, session)
        return read()
