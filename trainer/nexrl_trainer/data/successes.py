"""What became of tasks in a step: by id, the share of their rollouts that succeeded. Pure."""

from collections import defaultdict
from collections.abc import Sequence

from nexrl.records import TrainingGroup
from nexrl.rewards import TOTAL
from nexrl_ingest.client import GroupState
from nexrl_trainer.batches.selection import total_reward


def successes(trained: Sequence[TrainingGroup], left_out: Sequence[GroupState], at: float) -> dict[str, float]:
    """Count the rollouts whose total reward reaches `at`; one that failed is no success, as in evaluations.

    Groups without contrast are among those left out, and say most: their tasks are learned, or too hard.
    """
    found: defaultdict[str, list[bool]] = defaultdict(list)
    for group in trained:
        found[group.group.task.id] += [
            item.status == "completed" and total_reward(item) >= at for item in group.trajectories
        ]
    for state in left_out:
        found[state.task] += [item.status == "completed" and item.rewards[TOTAL] >= at for item in state.outcomes]
    return {task: sum(succeeded) / len(succeeded) for task, succeeded in found.items()}
