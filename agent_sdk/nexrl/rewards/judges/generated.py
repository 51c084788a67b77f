"""A judge of tasks that a reasoning-gym generator made: the generator's own score."""

import functools
from collections.abc import Mapping
from typing import Any

import msgspec

from nexrl.errors import RewardError
from nexrl.rewards.judges.missing import package


def reasoning_gym_score(answer: str, task: Mapping[str, Any]) -> float:
    """Return the score, 0 to 1, that the generator of a task gives an answer; most want nothing but the answer itself.

    `task` has the field `generator`, as rows of a `reasoning_gym:NAME` source do. The generator makes the same task
    once more, with what it needs to score it. Raises RewardError where the task has no such field, or where the
    reasoning-gym that is installed no longer makes it.
    """
    made = task.get("generator")
    if not isinstance(made, Mapping):
        raise RewardError(
            "the task has no field 'generator'; reasoning_gym_score is for tasks of reasoning_gym sources"
        )
    dataset = _dataset(made["name"], msgspec.json.encode(made["options"]))
    entry = dataset[made["index"]]
    if entry["question"] not in str(task.get("question")):
        raise RewardError(
            f"{made['name']}, task {made['index']}: this reasoning-gym makes another question of it; "
            "use the version that made the task, and let its field `question` hold that question"
        )
    return float(dataset.score_answer(answer, entry))


@functools.lru_cache(maxsize=64)
def _dataset(name: str, options: bytes) -> Any:
    gym = package("reasoning_gym", "reasoning-gym")
    return gym.create_dataset(name, **msgspec.json.decode(options))
