"""Hear what other replicas tell over PostgreSQL: LISTEN and NOTIFY, on a connection and a thread of their own.

A word is part of the transaction that it is about (`postgres.py`): it comes once that is committed, or never. After an
outage it rings once, for what may have been missed. Where words do not arrive, as behind a pooler that hands out
connections by transaction, that is found out and said, once; those who wait look from time to time then, until a later
try, a minute apart from the others, hears again.
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
DEAF_S = 60.0
"""Between tries where the database answers and words do not arrive: each of them takes two connections."""
_log = logging.getLogger(__name__)


class Hearing:
    """Calls `ring` for every word, from its own thread, until it is closed."""

    def __init__(self, url: str, where: str, ring: Callable[[], None]) -> None:
        self.works = False
        """Whether words arrive now."""
        self._url = url
        self._where = where
        self._ring = ring
        self._said_deaf = False
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
            pause_s = PAUSE_S
            try:
                with connect(self._url) as raw:
                    raw.execute(f"LISTEN {CHANNEL}")
                    if self._tried(raw):
                        self._hear(raw)
                    elif not self._closing.is_set():
                        self._say_deaf("passes no notifications on (a pooler?)")
                        pause_s = DEAF_S
            except psycopg.OperationalError:
                pass
            except psycopg.Error as error:
                self._say_deaf(f"has no notifications ({line(error)})")
                pause_s = DEAF_S
            finally:
                self.works = False
            self._closing.wait(pause_s)

    def _say_deaf(self, why: str) -> None:
        if not self._said_deaf:
            _log.warning("%s %s: who waits polls", self._where, why)
        self._said_deaf = True

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
        if self._said_deaf:
            _log.warning("%s passes notifications on again", self._where)
        self._said_deaf = False
        self.works = True
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
