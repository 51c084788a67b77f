"""Tasks by how often they succeed: those that do now and then are drawn most, since only they teach.

A task that succeeds with probability p is drawn in proportion to p(1-p) + floor. p(1-p) is the variance of a rollout's
success: where it is 0 all rollouts of a group are alike, and their advantages are 0 ("learnability": Rutherford et al.,
arXiv 2408.15099; Foster, Foerster et al., arXiv 2502.12272). The estimate of p starts at 0.5 and goes
`pace` of the way to what each group came to.

What is drawn depends on what happened, so each draw is written down before its group begins, and never made again: a
resumed run asks the same groups about the same tasks.
"""

import os
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from nexrl.errors import ConfigError
from nexrl.records import Task, TrainingGroup
from nexrl_ingest.client import GroupState
from nexrl_trainer.data.mixing import Mixture
from nexrl_trainer.data.pools import Pool
from nexrl_trainer.data.successes import successes
from nexrl_trainer.recipe import tasks as settings

UNSEEN = 0.5
"""Success of a task that nobody has tried: most is to be learned about it."""
LARGEST = 0.25
"""Of p(1-p)."""


class Draw(Struct, frozen=True, kw_only=True):
    """A line of the log."""

    number: int
    task: str


class DrawLog:
    """Draws by group number, in a file if there is a path: each line is on disk before `add` returns."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._drawn: dict[int, str] = {}
        if path and path.is_file():
            data = path.read_bytes()
            # What a crash left of a line was never acted on.
            whole = data.rfind(b"\n") + 1
            os.truncate(path, whole)
            for line in data[:whole].splitlines():
                draw = msgspec.json.decode(line, type=Draw)
                self._drawn[draw.number] = draw.task

    def get(self, number: int) -> str | None:
        return self._drawn.get(number)

    def add(self, number: int, task: str) -> None:
        if self._path:
            with self._path.open("ab") as file:
                file.write(msgspec.json.encode(Draw(number=number, task=task)) + b"\n")
                file.flush()
                os.fsync(file.fileno())
        self._drawn[number] = task


class Curriculum:
    """Draws by success, which is a total reward of `success_at`.

    `apart` groups in a row are about different tasks, as far as half a pool goes: more would leave little to chance.
    """

    def __init__(
        self,
        pools: Sequence[Pool],
        rule: settings.Curriculum,
        *,
        seed: int,
        apart: int,
        success_at: float,
        rates: Mapping[str, float],
        log: DrawLog,
    ) -> None:
        self._pools = pools
        self._rule = rule
        self._seed = seed
        self._apart = apart
        self._success_at = success_at
        self._mixture = Mixture([pool.weight for pool in pools])
        self._tasks = {task.id: task for pool in pools for task in pool.tasks}
        self._distinct = [len({task.id for task in pool.tasks}) for pool in pools]
        self._rates = dict(rates)
        self._log = log

    @property
    def rates(self) -> Mapping[str, float]:
        """Estimates of p, by id, of the tasks that were tried."""
        return dict(self._rates)

    def task(self, number: int) -> Task:
        """Return the task of group `number`, drawn now if it was not before.

        Raises ConfigError where a task that was drawn in an earlier start is no longer there.
        """
        name = self._log.get(number)
        if name is None:
            name = self._draw(number)
            self._log.add(number, name)
        if name not in self._tasks:
            raise ConfigError(
                f"group {number} of this run is about task {name!r}, which tasks.train no longer holds; "
                "bring it back, or choose another --run"
            )
        return self._tasks[name]

    def observe(self, trained: Sequence[TrainingGroup], left_out: Sequence[GroupState]) -> None:
        """Move each task's p towards the share of its rollouts that succeeded."""
        for name, share in successes(trained, left_out, self._success_at).items():
            before = self._rates.get(name, UNSEEN)
            self._rates[name] = before + self._rule.pace * (share - before)

    def weight(self, name: str) -> float:
        """Return p(1-p) + floor: a task's chance is in proportion to it."""
        rate = self._rates.get(name, UNSEEN)
        return rate * (1 - rate) + self._rule.floor

    def _draw(self, number: int) -> str:
        turn, _ = self._mixture.turn(number)
        pool = self._pools[turn]
        apart = min(self._apart - 1, self._distinct[turn] // 2)
        near = {self._log.get(earlier) for earlier in range(max(0, number - apart), number)}
        chance = random.Random(f"{self._seed}-{number}")  # noqa: S311 - a reproducible draw
        # Rejection: exact, and without the weights of all tasks.
        while True:
            name = pool.tasks[chance.randrange(len(pool.tasks))].id
            if name not in near and chance.random() * (LARGEST + self._rule.floor) < self.weight(name):
                return name
