"""Groups of a run: a task, and how often it is tried."""

from collections.abc import Sequence

from nexrl.records import Group, Task


def training_group(run: str, number: int, task: Task, size: int) -> Group:
    """Return a run's group of that number; its id is the same whenever it is planned."""
    return Group(id=f"{run}-g{number:06d}", run=run, task=task, size=size)


def evaluation_groups(run: str, version: int, tasks: Sequence[Task]) -> list[Group]:
    """Return one group of one rollout per held-out task, for the weights of `version`."""
    return [
        Group(id=f"{run}-e{version:05d}-t{index:04d}", run=run, task=task, size=1, mode="eval")
        for index, task in enumerate(tasks)
    ]
