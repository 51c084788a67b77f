"""Tasks: read them, and say which one each group of a run is about.

The order is a function of seed and number alone, so a resumed run continues where it stopped.
"""

import functools
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from nexrl.errors import ConfigError
from nexrl.records import Group, Task


def read_tasks(path: Path) -> list[Task]:
    """Read a JSONL file; a row's id is its `id` field, else the file's name and the row's number.

    Raises ConfigError naming file, line and remedy where a line is no JSON object, an id repeats, or there are none.
    """
    tasks: list[Task] = []
    seen: set[str] = set()
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise ConfigError(f"{path}:{number}: {error}; write one JSON object a line") from error
        name = str(row.get("id", f"{path.stem}-{number:05d}"))
        if name in seen:
            raise ConfigError(f"{path}:{number}: id {name!r} stands in an earlier row; ids must differ")
        seen.add(name)
        tasks.append(Task(id=name, fields=row))
    if not tasks:
        raise ConfigError(f"{path}: no tasks; write one JSON object a line")
    return tasks


def task_of(tasks: Sequence[Task], number: int, seed: int) -> Task:
    """Return the task of group number `number`: epochs over the dataset, shuffled anew each time around."""
    epoch, offset = divmod(number, len(tasks))
    return tasks[_order(len(tasks), seed, epoch)[offset]]


@functools.lru_cache(maxsize=2)
def _order(count: int, seed: int, epoch: int) -> list[int]:
    return random.Random(f"{seed}-{epoch}").sample(range(count), count)  # noqa: S311 - reproducible order


def training_group(run: str, number: int, task: Task, size: int) -> Group:
    """Return a run's group of that number; its id is the same whenever it is planned."""
    return Group(id=f"{run}-g{number:06d}", run=run, task=task, size=size)


def evaluation_groups(run: str, version: int, tasks: Sequence[Task]) -> list[Group]:
    """Return one group of one rollout per held-out task, for the weights of `version`."""
    return [
        Group(id=f"{run}-e{version:05d}-t{index:04d}", run=run, task=task, size=1, mode="eval")
        for index, task in enumerate(tasks)
    ]
