"""Evaluation: how held-out tasks go under the weights of a step, which step was best, and when to stop looking."""

from collections.abc import Sequence
from typing import Any

from nexrl.errors import RunError
from nexrl.rewards import TOTAL
from nexrl_trainer.data.groups import evaluation_groups
from nexrl_trainer.directory import State
from nexrl_trainer.measuring import commonest
from nexrl_trainer.rollouts.evaluation import evaluated
from nexrl_trainer.world import World

EVALUATION = "evaluation"


class EvaluationError(RunError):
    """Not one held-out rollout came to its end, under the weights of `state`."""

    def __init__(self, message: str, state: State) -> None:
        super().__init__(message)
        self.state = state


async def evaluate(world: World, state: State) -> float | None:
    """Run the held-out tasks under the current weights; return the share that succeeded, None without such tasks.

    A failed rollout is no success: the agent did not do its job. The checkpoint of the best step so far is kept.
    Raises EvaluationError where all of them failed: that says nothing of the weights.
    """
    if not world.heldout or not world.attempts:
        return None
    world.progress.phase(f"evaluating weights {state.version}", len(world.heldout))
    groups = evaluation_groups(world.recipe.name, state.version, world.heldout)
    states = await evaluated(groups, world.attempts, world.ingest)
    outcomes = [outcome for item in states for outcome in item.outcomes]
    if all(outcome.status == "failed" for outcome in outcomes):
        reasons = commonest([outcome.reason for outcome in outcomes])
        raise EvaluationError(f"evaluation: every rollout failed; {reasons}", state)
    totals = [outcome.rewards[TOTAL] for outcome in outcomes if outcome.status == "completed"]
    success = sum(total >= world.recipe.evaluation.success_at for total in totals) / len(outcomes)
    measured = {"success": success, "rollouts": len(outcomes), "failed": len(outcomes) - len(totals)}
    world.log({"kind": EVALUATION, "step": state.step, "version": state.version, **measured})
    world.progress.evaluated(state.step, success)
    if state.step and best_step(world.directory.metrics()) == state.step:
        await world.checkpoints.keep_best(state)
    return success


def best_step(lines: Sequence[dict[str, Any]]) -> int | None:
    """Return the step after which most succeeded, of several the first; None without evaluations.

    `lines` are those of metrics.jsonl. Example: successes 0.4, 0.7, 0.7 after steps 0, 5, 10 -> 5
    """
    ordered = _evaluations(lines)
    return max(ordered, key=lambda line: line["success"])["step"] if ordered else None


def stalled(lines: Sequence[dict[str, Any]], patience: int | None) -> bool:
    """Whether the last `patience` evaluations all fell short of, or only equalled, the best one before them."""
    ordered = _evaluations(lines)
    if patience is None or len(ordered) <= patience:
        return False
    best = best_step(lines)
    return sum(line["step"] > best for line in ordered) >= patience


def _evaluations(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted((line for line in lines if line["kind"] == EVALUATION), key=lambda line: line["step"])
