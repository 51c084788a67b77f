"""The algorithm. Collect groups, advantages, minibatches, forward_backward, optim_step, publish: as in the paper.

Synchronous and asynchronous are this one loop: how far rollouts run ahead of it is `rollouts/feed.py`'s part. So is a
run that plans none and learns from sessions as they come: `rollouts/sessions.py`. What must survive a crash is the
checkpoint; groups are acknowledged to ingest only once a checkpoint holds what they taught.
"""

import time
from collections.abc import Sequence

from msgspec import structs

from nexrl.errors import RunError
from nexrl.records import encode
from nexrl_trainer.batches.datums import Datum, minibatches, weighed
from nexrl_trainer.batches.scoring import choose, with_column
from nexrl_trainer.directory import RunDirectory, State
from nexrl_trainer.evaluating import EvaluationError, best_step, evaluate, stalled
from nexrl_trainer.files import write_whole
from nexrl_trainer.measuring import Clock, commonest, step_metrics, token_means
from nexrl_trainer.policy.schedule import learning_rate
from nexrl_trainer.policy.service import Learns, Optimizer
from nexrl_trainer.recipe import Recipe
from nexrl_trainer.results import Result
from nexrl_trainer.rollouts.collected import Collected
from nexrl_trainer.world import World


async def train(world: World, state: State, began: float) -> Result:
    """Run the remaining steps of the recipe from `state`; the engine samples with `state.version` already.

    `began` is the monotonic time from which the run's wall-clock seconds count. An evaluation in which every rollout
    fails ends the run, but what was trained before stays: it is saved, and the result says what happened.
    """
    failure = None
    try:
        state, success = await _steps(world, state, began)
    except EvaluationError as error:
        if not error.state.step:
            raise
        state, success, failure = error.state, None, str(error)
    await world.checkpoints.end(state)
    return Result(
        success_before=state.success_before,
        success_after=success,
        best_step=best_step(world.directory.metrics()),
        steps=state.step,
        wall_s=time.monotonic() - began,
        trained_tokens=state.trained_tokens,
        drift=state.drift,
        evaluation_error=failure,
    )


async def _steps(world: World, state: State, began: float) -> tuple[State, float | None]:
    """Go on until the last step or an early stop; return where that is, and the held-out success there."""
    recipe, every = world.recipe, world.recipe.evaluation.every
    if recipe.evaluation.before and state.success_before is None:
        state = structs.replace(state, success_before=await evaluate(world, state))
    success = state.success_before if state.step == 0 else None
    if state.step and every and state.step % every == 0:
        # Cheap where it was done already: finished rollouts are kept.
        success = await evaluate(world, state)
    for step in range(state.step, recipe.steps):
        if success is not None and stalled(world.directory.metrics(), recipe.evaluation.patience):
            world.progress.stopped_early(state.step)
            break
        clock = Clock(world.attempts.slots if world.attempts else None)
        world.progress.phase(f"step {step + 1}/{recipe.steps}: rollouts", recipe.sequences_per_step)
        collected = await world.feed.take(state.version, recipe.steps - step)
        refuse_hopeless(step, collected)
        world.draws.observe(collected.groups, collected.left_out)
        clock.lap("rollout_s")

        world.progress.phase(f"step {step + 1}/{recipe.steps}: training", 0)
        await world.publisher.give_way()
        selection = await choose(collected.groups, recipe.algorithm, state.version, world.scorers)
        learned = await learn(world.policy, selection.datums, recipe, step)
        clock.lap("train_s")

        version = state.version + 1 if learned else state.version
        if learned:
            world.directory.note_version(version)
        if learned or world.publisher.gave_way:
            await world.publisher.publish(version)
        world.feed.advance(version)
        clock.lap("publish_s")

        metrics = step_metrics(state.version, selection, collected, learned, clock)
        state = structs.replace(
            state,
            step=step + 1,
            version=version,
            trained_tokens=state.trained_tokens + metrics["trained_tokens"],
            drift=state.drift + metrics["drift"],
            wall_s=time.monotonic() - began,
            position=world.feed.position,
            rates=dict(world.draws.rates),
        )
        if recipe.keep_batches:
            keep_batch(world.directory, step, selection.datums)
        # Before the checkpoint: a step that counts is in the log; one that is done again stands there once, as it went.
        world.log({"kind": "step", "step": state.step, "wall_s": state.wall_s, **metrics})
        world.checkpoints.owe(collected.leases)
        if state.step % recipe.checkpoints.every == 0:
            await world.checkpoints.begin(state)
        world.progress.step(state.step, metrics)

        success = await evaluate(world, state) if every and state.step % every == 0 else None
    if success is None:
        success = await evaluate(world, state)
    return state, success


async def learn(policy: Learns, datums: Sequence[Datum], recipe: Recipe, step: int) -> list[dict[str, float]]:
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


def keep_batch(directory: RunDirectory, step: int, datums: Sequence[Datum]) -> None:
    """Write what a step was trained on: MessagePack of `list[Datum]`."""
    directory.batches.mkdir(exist_ok=True)
    write_whole(directory.batches / f"step-{step + 1:05d}.msgpack", encode(list(datums)))


def refuse_hopeless(step: int, collected: Collected) -> None:
    """Raise RunError where not one rollout of a step could be judged: more of the same would teach nothing."""
    if not collected.judged:
        failures = collected.failures
        raise RunError(f"step {step + 1}: all {len(failures)} rollouts failed; {commonest(failures)}")
