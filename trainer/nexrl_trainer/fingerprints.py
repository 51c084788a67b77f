"""What a run's tasks and judges were when it was last started, so that a start that goes on with others can say so.

The recipe's own settings are `recipe/changes.py`'s.
"""

from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path

import msgspec

from nexrl.records import Task
from nexrl_trainer.files import write_whole
from nexrl_trainer.inputs import Given
from nexrl_trainer.recipe import Recipe


def fingerprints(recipe: Recipe, given: Given) -> dict[str, str]:
    """Return digests of the tasks, and of the files with reward functions, by the settings that name them."""
    found = {
        "tasks.train": _of_tasks(task for pool in given.tasks for task in pool.tasks),
        "tasks.heldout": _of_tasks(given.heldout),
    }
    environment = recipe.agent.environment if recipe.agent else None
    judges = {
        "reward": recipe.reward,
        "sessions.reward": recipe.sessions.reward if recipe.sessions else None,
        "agent.environment": environment and environment.rpartition(":")[0],
    }
    return found | {
        name: sha256(recipe.resolve(path).read_bytes()).hexdigest() for name, path in judges.items() if path
    }


def renewed(file: Path, now: dict[str, str]) -> list[str]:
    """Keep the digests in a file; return, in words, what is not as it was when that was written before."""
    before = msgspec.json.decode(file.read_bytes(), type=dict[str, str]) if file.is_file() else now
    write_whole(file, msgspec.json.encode(now))
    return [
        f"{name} is not what it was at the last start; from here on it counts as it is now"
        for name, digest in now.items()
        if before.get(name) != digest
    ]


def _of_tasks(tasks: Iterable[Task]) -> str:
    digest = sha256()
    for task in tasks:
        digest.update(msgspec.msgpack.encode(task, order="sorted"))
    return digest.hexdigest()
