"""Tasks: read them, and say which ones a step trains on.

The order is a function of seed and step alone, so a resumed run continues where it stopped.
"""

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


def tasks_of_step(tasks: Sequence[Task], step: int, count: int, seed: int) -> list[Task]:
    """Return the `count` tasks step number `step` trains on, in epochs shuffled anew each time around."""
    chosen: list[Task] = []
    position = step * count
    while len(chosen) < count:
        epoch, offset = divmod(position, len(tasks))
        order = random.Random(f"{seed}-{epoch}").sample(range(len(tasks)), len(tasks))  # noqa: S311 - reproducible order
        taken = order[offset : offset + count - len(chosen)]
        chosen += [tasks[index] for index in taken]
        position += len(taken)
    return chosen


def training_groups(run: str, step: int, tasks: Sequence[Task], size: int) -> list[Group]:
    """Return the groups of one step; their ids are the same whenever the step is planned."""
    return [
        Group(id=f"{run}-s{step:05d}-g{index:03d}", run=run, task=task, size=size) for index, task in enumerate(tasks)
    ]


def evaluation_groups(run: str, version: int, tasks: Sequence[Task]) -> list[Group]:
    """Return one group of one rollout per held-out task, for the weights of `version`."""
    return [
        Group(id=f"{run}-e{version:05d}-t{index:04d}", run=run, task=task, size=1, mode="eval")
        for index, task in enumerate(tasks)
    ]
