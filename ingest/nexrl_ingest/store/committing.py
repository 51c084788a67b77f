"""Group commit: one writer thread, one commit for all who wait.

What is submitted while a commit runs becomes the next transaction: one fsync for all of it. A submission's future
resolves after that commit, so whoever awaits it may acknowledge. How a transaction begins and ends, and whose fault an
error is, is the backend's to say (`embedded.py`, `postgres.py`).
"""

import asyncio
import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from nexrl_ingest.refusals import UnavailableError
from nexrl_ingest.store.connection import Connection
from nexrl_ingest.store.telling import Bell

T = TypeVar("T")
Work = Callable[[Connection], T]
Fault = Literal["work", "again", "away"]
"""Of an error: the submission's own, a race with another replica, or storage that cannot be written now."""
TRIES = 5
"""Of a transaction that lost races with other replicas."""
_log = logging.getLogger(__name__)


class Transactions(Protocol):
    """Transactions of one backend, used from one thread."""

    where: str
    """What is written to, for people; holds no password."""

    def begin(self, *, exclusive: bool) -> Connection:
        """Begin a transaction; `exclusive`: while no other replica is inside an exclusive one."""
        ...

    def tell(self) -> None:
        """Let the transaction, once it is committed, tell other replicas that something changed."""
        ...

    def commit(self) -> None:
        """Return once the transaction would survive a power cut."""
        ...

    def rollback(self) -> None:
        """Undo the transaction, if there is one; raises nothing."""
        ...

    def fault(self, error: Exception) -> Fault: ...

    def close(self) -> None: ...


class _Submission(NamedTuple):
    work: Work[Any]
    exclusive: bool
    tells: bool
    future: "Future[Any]"


class _Settled(NamedTuple):
    future: "Future[Any]"
    result: Any
    error: Exception | None


class GroupCommit:
    """The writer thread of a store."""

    def __init__(self, transactions: Transactions, bell: Bell) -> None:
        """`bell` rings after each commit of works that tell."""
        self._transactions = transactions
        self._bell = bell
        self._failing = False
        self._queue: queue.SimpleQueue[_Submission | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write_until_closed, name="nexrl-store-writer", daemon=True)
        self._writer.start()

    async def write(self, work: Work[T], *, exclusive: bool, tells: bool) -> T:
        future: Future[T] = Future()
        self._queue.put(_Submission(work, exclusive, tells, future))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Finish what was submitted, then close the connection."""
        self._queue.put(None)
        self._writer.join()
        self._transactions.close()

    def _write_until_closed(self) -> None:
        closing = False
        while not closing:
            batch = [self._queue.get()]
            with contextlib.suppress(queue.Empty):
                while True:
                    batch.append(self._queue.get_nowait())
            closing = None in batch
            started = [item for item in batch if item and item.future.set_running_or_notify_cancel()]
            for future, result, error in self._commit(started) if started else ():
                if error:
                    future.set_exception(error)
                else:
                    future.set_result(result)

    def _commit(self, batch: list[_Submission]) -> list[_Settled]:
        """Run a batch as one transaction; try again where another replica was in the way."""
        tries = 0
        while True:
            tries += 1
            try:
                settled = self._transact(batch)
            except Exception as error:  # noqa: BLE001 - whatever it is, somebody waits for an answer
                self._transactions.rollback()
                if self._transactions.fault(error) == "again" and tries < TRIES:
                    continue
                return self._refused(batch, error)
            if self._failing:
                _log.warning("%s can be written again", self._transactions.where)
            self._failing = False
            # Only now: what a listener does cannot undo what is durable.
            if _tells(batch, settled):
                self._bell.ring()
            return settled

    def _refused(self, batch: list[_Submission], error: Exception) -> list[_Settled]:
        message = f"{self._transactions.where} cannot be written: {' '.join(str(error).split())}"
        # Once: an outage is felt by every batch.
        if not self._failing:
            _log.warning("%s", message)
        self._failing = True
        refused = UnavailableError(f"{message}; nothing was acknowledged, try again")
        return [_Settled(item.future, None, refused) for item in batch]

    def _transact(self, batch: list[_Submission]) -> list[_Settled]:
        connection = self._transactions.begin(exclusive=any(item.exclusive for item in batch))
        settled = [_Settled(item.future, *self._run(connection, item.work)) for item in batch]
        if _tells(batch, settled):
            self._transactions.tell()
        self._transactions.commit()
        return settled

    def _run(self, connection: Connection, work: Work[Any]) -> tuple[Any, Exception | None]:
        """Run one submission so that its failure undoes its own changes and nobody else's."""
        connection.execute("SAVEPOINT submission")
        try:
            outcome: tuple[Any, Exception | None] = (work(connection), None)
        except Exception as error:
            if self._transactions.fault(error) != "work":
                raise
            connection.execute("ROLLBACK TO submission")
            outcome = (None, error)
        connection.execute("RELEASE submission")
        return outcome


def _tells(batch: list[_Submission], settled: list[_Settled]) -> bool:
    return any(item.tells and not done.error for item, done in zip(batch, settled, strict=True))
