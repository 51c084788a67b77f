"""Tasks in epochs: every one once, shuffled anew each time around or as they are listed.

What group n is about is a function of the seed and n alone, so a resumed run goes on where it stopped.
"""

import functools
import random
from collections.abc import Mapping, Sequence

from nexrl.records import Task, TrainingGroup
from nexrl_ingest.client import GroupState
from nexrl_trainer.data.mixing import Mixture
from nexrl_trainer.data.pools import Pool


class Epochs:
    """Draws by number; nothing that happens changes them."""

    rates: Mapping[str, float] = {}

    def __init__(self, pools: Sequence[Pool], *, seed: int, shuffled: bool) -> None:
        self._pools = pools
        self._mixture = Mixture([pool.weight for pool in pools])
        self._seed = seed
        self._shuffled = shuffled

    def task(self, number: int) -> Task:
        """Return the task of group `number`: of its pool's epochs, each over all of the pool."""
        turn, place = self._mixture.turn(number)
        pool = self._pools[turn]
        epoch, offset = divmod(place, len(pool.tasks))
        if not self._shuffled:
            return pool.tasks[offset]
        # One pool needs no name: its order is that of a run whose recipe names a single file.
        key = f"{self._seed}-{epoch}" if len(self._pools) == 1 else f"{self._seed}-{pool.name}-{epoch}"
        return pool.tasks[_order(len(pool.tasks), key)[offset]]

    def observe(self, trained: Sequence[TrainingGroup], left_out: Sequence[GroupState]) -> None:
        """Do nothing with what became of tasks."""


@functools.lru_cache(maxsize=16)
def _order(count: int, key: str) -> list[int]:
    return random.Random(key).sample(range(count), count)  # noqa: S311 - reproducible order
