"""Tasks at which agents always fail are set aside: they would cost every epoch the same time, and teach nothing.

What is counted lies in the run directory, so a run that goes on leaves out what it left out before.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from nexrl.errors import RunError
from nexrl.records import Group
from nexrl_trainer.files import write_whole

HOPELESS = 10_000
"""Tasks passed over in a row, until there seem to be no others."""


class Quarantine:
    """Counts, by task, groups in a row whose agents all failed; `after` so many a task is set aside, None never is.

    `say` tells people of each that is set aside.
    """

    def __init__(self, after: int | None, *, file: Path, say: Callable[[str], None]) -> None:
        self._after = after
        self._file = file
        self._passed_over = 0
        self._say = say
        known = after is not None and file.is_file()
        self._failed = msgspec.json.decode(file.read_bytes(), type=dict[str, int]) if known else {}

    @property
    def count(self) -> int:
        """How many tasks are set aside."""
        return sum(self._is_over(failed) for failed in self._failed.values())

    def note(self, group: Group, problems: Sequence[str | None]) -> None:
        """Count a training group by why the agents of its rollouts failed; None for one that did not.

        Where fewer are known, since others ran in an earlier start, they can only show that the task is no such one.
        """
        if self._after is None or group.mode != "train":
            return
        before = self._failed.get(group.task.id, 0)
        if None in problems and before:
            del self._failed[group.task.id]
        elif None not in problems and len(problems) == group.size:
            self._failed[group.task.id] = before + 1
            if before + 1 == self._after:
                self._say(f"task {group.task.id} is set aside, {self._after} groups failed: {problems[-1]}")
        else:
            return
        write_whole(self._file, msgspec.json.encode(self._failed))

    def passes_over(self, task: str) -> bool:
        """Whether a task that is about to be run is set aside. Raises RunError where it seems that all tasks are."""
        if not self._is_over(self._failed.get(task, 0)):
            self._passed_over = 0
            return False
        self._passed_over += 1
        if self._passed_over >= HOPELESS:
            raise RunError(
                f"agent.quarantine={self._after}: {self.count} tasks are set aside, as agents always failed at them, "
                f"and no others are left; mend the agent, remove {self._file}, and run it again"
            )
        return True

    def _is_over(self, failed: int) -> bool:
        return self._after is not None and failed >= self._after
