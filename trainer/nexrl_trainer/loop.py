"""The algorithm. Collect groups, advantages, minibatches, forward_backward, optim_step, publish: as in the paper.

Synchronous: a step's rollouts are sampled with the weights of that step, so staleness is 0. What must survive a
crash is the checkpoint; a step's groups are acknowledged to ingest only once a checkpoint holds what they taught.
"""

import shutil
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from nexrl.errors import RunError
from nexrl.records import Task, TrainingGroup, encode
from nexrl.rewards import TOTAL
from nexrl_ingest.client import IngestClient
from nexrl_trainer.batches.datums import Datum, minibatches, weighed
from nexrl_trainer.batches.scoring import Scorers, choose, with_column
from nexrl_trainer.directory import RunDirectory, State, write_whole
from nexrl_trainer.engines.publisher import Publisher
from nexrl_trainer.measuring import Clock, step_metrics, token_means
from nexrl_trainer.policy.schedule import learning_rate
from nexrl_trainer.policy.service import Optimizer, TrainService
from nexrl_trainer.progress import Progress
from nexrl_trainer.recipe import Recipe
from nexrl_trainer.rollouts.collect import Collected, Collector
from nexrl_trainer.tasks import evaluation_groups, tasks_of_step, training_groups

TOKENIZER_FILES = ("tokenizer", "special_tokens_map", "added_tokens", "vocab", "merges", "chat_template")


class World(Struct, frozen=True, kw_only=True):
    """Everything the loop works with; `run.py` builds it."""

    recipe: Recipe
    tasks: Sequence[Task]
    heldout: Sequence[Task]
    policy: TrainService
    scorers: Scorers
    model: Path
    """Where the run started from: config, tokenizer, weights."""
    publisher: Publisher
    collector: Collector
    ingest: IngestClient
    directory: RunDirectory
    progress: Progress


class Result(Struct, frozen=True, kw_only=True):
    """What `summary.json` says."""

    success_before: float | None
    success_after: float | None
    steps: int
    wall_s: float
    trained_tokens: int
    drift: int


async def train(world: World, state: State, began: float) -> Result:
    """Run the remaining steps of the recipe from `state`; the engine samples with `state.version` already.

    `began` is the monotonic time from which the run's wall-clock seconds count.
    """
    recipe = world.recipe
    if recipe.evaluation.before and state.success_before is None:
        state = structs.replace(state, success_before=await evaluate(world, state))
    success = state.success_before if state.step == 0 else None
    every = recipe.evaluation.every
    if state.step and every and state.step % every == 0:
        # Cheap where it was done already: finished rollouts are kept.
        success = await evaluate(world, state)
    leases: list[str] = []
    for step in range(state.step, recipe.steps):
        clock = Clock()
        world.progress.phase(f"step {step + 1}/{recipe.steps}: rollouts", recipe.sequences_per_step)
        collected = await roll_out(world, step)
        clock.lap("rollout_s")

        world.progress.phase(f"step {step + 1}/{recipe.steps}: training", 0)
        selection = await choose(collected.groups, recipe.algorithm, state.version, world.scorers)
        learned = await learn(world.policy, selection.datums, recipe, step)
        clock.lap("train_s")

        version = state.version + 1 if learned else state.version
        if learned:
            await world.publisher.publish(world.policy, version)
        clock.lap("publish_s")

        metrics = step_metrics(state.version, selection, collected, learned, clock)
        state = structs.replace(
            state,
            step=step + 1,
            version=version,
            trained_tokens=state.trained_tokens + metrics["trained_tokens"],
            drift=state.drift + metrics["drift"],
            wall_s=time.monotonic() - began,
        )
        if recipe.keep_batches:
            keep_batch(world.directory, step, selection.datums)
        # Before the checkpoint: a step that counts is in the log; one that is done again stands there once, as it went.
        world.directory.log({"kind": "step", "step": state.step, "wall_s": state.wall_s, **metrics})
        leases += collected.leases
        if state.step % recipe.checkpoints.every == 0 or state.step == recipe.steps:
            await checkpoint(world, state)
            await world.ingest.ack(leases)
            leases = []
        world.progress.step(state.step, metrics)

        success = await evaluate(world, state) if every and state.step % every == 0 else None
    if success is None:
        success = await evaluate(world, state)
    return Result(
        success_before=state.success_before,
        success_after=success,
        steps=state.step,
        wall_s=time.monotonic() - began,
        trained_tokens=state.trained_tokens,
        drift=state.drift,
    )


async def roll_out(world: World, step: int) -> Collected:
    """Run a step's rollouts; raises RunError where not one of them could be judged."""
    recipe = world.recipe
    chosen = tasks_of_step(world.tasks, step, recipe.rollouts.groups_per_step, recipe.seed)
    groups = training_groups(recipe.name, step, chosen, recipe.rollouts.group_size)
    collected = await world.collector.collect(groups)
    refuse_hopeless(step, collected.groups)
    return collected


async def learn(policy: TrainService, datums: Sequence[Datum], recipe: Recipe, step: int) -> list[dict[str, float]]:
    """Make the step's optimizer updates; return what each one measured, first to last. Empty without datums."""
    algorithm = recipe.algorithm
    optimizer = Optimizer(
        learning_rate=learning_rate(recipe.train, step, recipe.steps),
        betas=recipe.train.betas,
        weight_decay=recipe.train.weight_decay,
        grad_clip=recipe.train.grad_clip,
    )
    if algorithm.needs_proximal and datums:
        datums = with_column(datums, "proximal", await policy.forward(list(datums)))
    learned: list[dict[str, float]] = []
    for _ in range(algorithm.epochs):
        for part in minibatches(datums, algorithm.minibatches):
            batch = weighed(part, algorithm.normalisation, algorithm.constant_length)
            sums = await policy.forward_backward(batch, algorithm.objective)
            done = await policy.optim_step(optimizer)
            learned.append({**token_means(sums), "grad_norm": done.grad_norm})
    return learned


async def evaluate(world: World, state: State) -> float | None:
    """Run the held-out tasks under the current weights; return the share that succeeded, None without such tasks.

    A failed rollout is no success: the agent did not do its job.
    """
    if not world.heldout:
        return None
    world.progress.phase(f"evaluating weights {state.version}", len(world.heldout))
    groups = evaluation_groups(world.recipe.name, state.version, world.heldout)
    outcomes = [outcome for item in await world.collector.evaluate(groups) for outcome in item.outcomes]
    if all(outcome.status == "failed" for outcome in outcomes):
        raise RunError(f"evaluation: every rollout failed; {commonest([outcome.reason for outcome in outcomes])}")
    totals = [outcome.rewards[TOTAL] for outcome in outcomes if outcome.status == "completed"]
    success = sum(total >= world.recipe.evaluation.success_at for total in totals) / len(outcomes)
    measured = {"success": success, "rollouts": len(outcomes), "failed": len(outcomes) - len(totals)}
    world.directory.log({"kind": "evaluation", "step": state.step, "version": state.version, **measured})
    world.progress.evaluated(state.step, success)
    return success


async def checkpoint(world: World, state: State) -> None:
    """Save what a resumed run needs; whole or not at all."""
    with world.directory.checkpoint(state, world.recipe.checkpoints.keep) as folder:
        await world.policy.save(folder)
        copy_tokenizer(world.model, folder)


def copy_tokenizer(model: Path, folder: Path) -> None:
    """Put the tokenizer and chat template beside the weights, so that the folder is a model people can use."""
    for file in model.iterdir():
        if file.name.startswith(TOKENIZER_FILES) or file.suffix == ".jinja":
            shutil.copy(file, folder)


def keep_batch(directory: RunDirectory, step: int, datums: Sequence[Datum]) -> None:
    """Write what a step was trained on: MessagePack of `list[Datum]`."""
    directory.batches.mkdir(exist_ok=True)
    write_whole(directory.batches / f"step-{step + 1:05d}.msgpack", encode(list(datums)))


def refuse_hopeless(step: int, groups: Sequence[TrainingGroup]) -> None:
    """Raise RunError where not one rollout of a step could be judged: more of the same would teach nothing."""
    trajectories = [item for group in groups for item in group.trajectories]
    if all(item.status == "failed" for item in trajectories):
        reasons = commonest([item.reason for item in trajectories])
        raise RunError(f"step {step + 1}: all {len(trajectories)} rollouts failed; {reasons}")


def commonest(reasons: Sequence[str]) -> str:
    """Say what went wrong most often. Example: a a b -> "2 times: a; 1 times: b"."""
    return "; ".join(f"{count} times: {reason}" for reason, count in Counter(reasons).most_common(3))


def write_summary(directory: RunDirectory, result: Result) -> None:
    """Write summary.json."""
    write_whole(directory.summary_file, msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
