"""Rollouts that ended and wait for the rest of their group, on disk: a function is going to compare them all.

Their outcomes must not be stored before, for an outcome is final. Three instants matter: a rollout's file is whole or
not there; then it is not run again. The group's verdict is one file; once it is there it is what gets stored, however
often, and nobody is judged anew. The folder goes when all of it is stored.
"""

import shutil
from pathlib import Path

from msgspec import Struct

from nexrl.records import Attempt, Outcome, decode, encode
from nexrl.rewards import Weighed
from nexrl_trainer.files import write_whole
from nexrl_trainer.rollouts.runners.runner import Ended

VERDICT = "verdict"


class Waiting(Struct, frozen=True, kw_only=True):
    """A rollout that ended, for good."""

    attempt: Attempt
    outcome: Outcome
    """Without a total as yet, where it is completed."""
    judged: list[Weighed] = []
    """What the functions of single rollouts gave."""
    ended: Ended | None = None
    """None where nothing is left to judge: it failed."""


class Settled(Struct, frozen=True, kw_only=True):
    """An attempt and its outcome, as it is to be stored."""

    attempt: str
    outcome: Outcome


class WaitingRoom:
    """The folder of one run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(self, rollout: Waiting) -> None:
        """Keep a rollout; its group's other attempts at it did not count."""
        folder = self._folder / rollout.attempt.group
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / f"{rollout.attempt.rollout:06d}.rollout", encode(rollout))

    def of(self, group: str) -> list[Waiting]:
        """Return a group's rollouts, in their order."""
        files = sorted((self._folder / group).glob("*.rollout"))
        return [decode(file.read_bytes(), Waiting) for file in files]

    def decide(self, group: str, verdict: list[Settled]) -> None:
        """Keep what becomes of all of them: from here on it stands."""
        write_whole(self._folder / group / VERDICT, encode(verdict))

    def verdict(self, group: str) -> list[Settled] | None:
        """Return what was decided, None where nothing was."""
        file = self._folder / group / VERDICT
        return decode(file.read_bytes(), list[Settled]) if file.is_file() else None

    def forget(self, group: str) -> None:
        shutil.rmtree(self._folder / group, ignore_errors=True)
