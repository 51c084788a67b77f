"""Which task each group of a run is about: the protocol of all orders, and the one that a recipe asks for."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from nexrl.records import Task, TrainingGroup
from nexrl_ingest.client import GroupState
from nexrl_trainer.data.curriculum import Curriculum, DrawLog
from nexrl_trainer.data.epochs import Epochs
from nexrl_trainer.data.pools import Pool
from nexrl_trainer.recipe import Recipe


class Draws(Protocol):
    """The tasks of a run's groups, by number."""

    @property
    def rates(self) -> Mapping[str, float]:
        """What a checkpoint holds of what was learned about tasks: success by id."""
        ...

    def task(self, number: int) -> Task:
        """Return the task of group `number`; the same one whenever it is asked for."""
        ...

    def observe(self, trained: Sequence[TrainingGroup], left_out: Sequence[GroupState]) -> None:
        """Learn what became of a step's groups, those of them included that were not trained."""
        ...


def draws_of(recipe: Recipe, pools: Sequence[Pool], rates: Mapping[str, float], log: Path | None) -> Draws:
    """Return the recipe's order of these tasks, going on from `rates`.

    `log` is where an order that depends on what happened writes down what it drew; without one, nothing outlives it.
    """
    rule = recipe.tasks
    if rule.order == "curriculum":
        return Curriculum(
            pools,
            rule.curriculum,
            seed=recipe.seed,
            apart=recipe.rollouts.groups_per_step,
            success_at=recipe.evaluation.success_at,
            rates=rates,
            log=DrawLog(log),
        )
    return Epochs(pools, seed=recipe.seed, shuffled=rule.order == "shuffled")
