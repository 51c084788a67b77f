"""Hear what other replicas tell over PostgreSQL: LISTEN and NOTIFY, on a connection and a thread of their own.

A word is part of the transaction that it is about (`postgres.py`): it comes once that is committed, or never. After an
outage it rings once, for what may have been missed. Where words do not arrive, as behind a pooler that hands out
connections by transaction, that is found out at the start and said; those who wait look from time to time then.
"""

import logging
import os
import secrets
import select
import threading
import time
from collections.abc import Callable

import psycopg

from nexrl_ingest.store.postgres_connection import Raw, connect, line

CHANNEL = "nexrl_ingest"
TELL = f"NOTIFY {CHANNEL}"
TRIAL_S = 3.0
"""How long the first word may be on its way."""
PAUSE_S = 1.0
"""Between tries to connect again."""
_log = logging.getLogger(__name__)


class Hearing:
    """Calls `ring` for every word, from its own thread, until it is closed."""

    def __init__(self, url: str, where: str, ring: Callable[[], None]) -> None:
        self.works = False
        """Whether words arrive now."""
        self._url = url
        self._where = where
        self._ring = ring
        self._closing = threading.Event()
        self._wake, self._waker = os.pipe()
        self._thread = threading.Thread(target=self._run, name="nexrl-store-hearing", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        os.write(self._waker, b"\0")
        self._thread.join()
        os.close(self._wake)
        os.close(self._waker)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                with connect(self._url) as raw:
                    raw.execute(f"LISTEN {CHANNEL}")
                    if not self._tried(raw):
                        if not self._closing.is_set():
                            _log.warning("%s passes no notifications on (a pooler?): who waits polls", self._where)
                        return
                    self.works = True
                    self._hear(raw)
            except psycopg.OperationalError:
                self._closing.wait(PAUSE_S)
            except psycopg.Error as error:
                _log.warning("%s has no notifications (%s): who waits polls", self._where, line(error))
                return
            finally:
                self.works = False

    def _tried(self, raw: Raw) -> bool:
        """Whether a word that another connection says arrives here."""
        word = secrets.token_hex(8)
        with connect(self._url) as other:
            other.execute("SELECT pg_notify(%s, %s)", (CHANNEL, word))
        deadline = time.monotonic() + TRIAL_S
        while not self._closing.is_set() and (left_s := deadline - time.monotonic()) > 0:
            if word in self._heard(raw, left_s):
                return True
        return False

    def _hear(self, raw: Raw) -> None:
        self._ring()
        while not self._closing.is_set():
            if self._heard(raw, None):
                self._ring()

    def _heard(self, raw: Raw, longest_s: float | None) -> list[str]:
        """Wait for words; return those that came, none where it is time to close or they took too long."""
        ready, _, _ = select.select([raw.fileno(), self._wake], [], [], longest_s)
        if raw.fileno() not in ready:
            return []
        return [word.payload for word in raw.notifies(timeout=0)]
