"""Attempts that failed, for people: why each did, and the last that it printed, in a log that stays small.

What counts is in ingest, as outcomes; but an attempt that never called the model is in no listing of sessions.
"""

import contextlib
import logging
from datetime import UTC, datetime
from pathlib import Path

from nexrl.worker_process import opened_log
from nexrl_trainer.rollouts.runners.runner import Ended

SHOWN = 16_384
"""Characters of each stream, the newest."""


class Failures:
    """The log of one run; every start of it goes on writing."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def note(self, attempt: str, reason: str, ended: Ended) -> None:
        """Write down why an attempt failed."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with contextlib.closing(opened_log(self._file)) as log:
            log.emit(logging.makeLogRecord({"msg": f"{now} {described(attempt, reason, ended)}"}))


def described(attempt: str, reason: str, ended: Ended) -> str:
    """Return the entry of an attempt.

    Example: a-1 after 0.3 s: agent: exit code 1: KeyError: 'x'
                stderr | Traceback (most recent call last):
                stderr | KeyError: 'x'
    """
    lines = [f"{attempt} after {ended.duration_s:.1f} s: {reason}"]
    # A cluster keeps one log of both.
    stdout = "" if ended.stdout == ended.stderr else ended.stdout
    for name, text in (("stderr", ended.stderr), ("stdout", stdout)):
        lines += [f"    {name} | {line}" for line in text[-SHOWN:].strip().splitlines()]
    return "\n".join(lines) + "\n"
