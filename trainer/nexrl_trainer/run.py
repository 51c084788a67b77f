"""One run, from recipe to summary: start what is needed, run the loop, stop what was started."""

import asyncio
import contextlib
import signal
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

import aiohttp
from msgspec import structs
from rich.console import Console

from nexrl.errors import RunError
from nexrl.keys import ADMIN_KEY_VARIABLE, admin_key
from nexrl.service import allow_many_files
from nexrl_ingest.client import IngestClient
from nexrl_trainer.awaiting import everything, unless
from nexrl_trainer.checkpointing import Checkpoints
from nexrl_trainer.cluster import cluster
from nexrl_trainer.data.draws import draws_of
from nexrl_trainer.directory import RunDirectory, State, of_policy
from nexrl_trainer.engines.door import Door
from nexrl_trainer.engines.fleet import Fleet, Weights
from nexrl_trainer.engines.publication import weights_folder
from nexrl_trainer.fingerprints import fingerprints, renewed
from nexrl_trainer.flows import Ground, attempts_of, flow_of
from nexrl_trainer.inputs import Given, prepare_models
from nexrl_trainer.learners import fleets_of, publishers_of, scorers_of, trainers_of
from nexrl_trainer.loop import train
from nexrl_trainer.measuring import several
from nexrl_trainer.picture import draw_rewards
from nexrl_trainer.policy.routed import Routed
from nexrl_trainer.progress import Progress
from nexrl_trainer.recipe import Recipe
from nexrl_trainer.results import Result, finished, unevaluated, write_summary
from nexrl_trainer.rollouts.proxy import ProxyClient
from nexrl_trainer.rollouts.runners.program import refuse_no_program
from nexrl_trainer.services.running import Services, refuse_taken_ports
from nexrl_trainer.tracking import Trackers
from nexrl_trainer.world import World


def run(recipe: Recipe, given: Given, directory: RunDirectory, console: Console) -> Result:
    """Run the recipe in the directory, from its newest checkpoint if it has one.

    Raises NexrlError for what people can mend. Ctrl-C stops everything and raises KeyboardInterrupt. A finished run
    that is asked for no more steps is left as it is: its result is returned.
    """
    allow_many_files()
    with directory.opened(recipe) as changed:
        if not changed and (done := finished(directory, recipe.steps, recipe.evaluation.patience)):
            console.print(f"already done: {several(done.steps, 'step')}", highlight=False)
            return done
        if recipe.agent:
            refuse_no_program(recipe.agent, recipe.resolve("."))
        refuse_taken_ports(recipe)
        models = prepare_models(recipe, console)
        if note := directory.begin(recipe, changed):
            console.print(note, soft_wrap=True, highlight=False, markup=False)
        for said in renewed(directory.fingerprints, fingerprints(recipe, given)):
            console.print(said, style="yellow", soft_wrap=True, highlight=False, markup=False)
        if latest := directory.latest():
            console.print(f"going on after step {latest[1].step} of {recipe.steps}", highlight=False)
        with Trackers.started(recipe, directory, console) as trackers:
            with cluster(recipe):
                result = asyncio.run(_run(recipe, given, directory, models, console, trackers))
            write_summary(directory, result)
            draw_rewards(directory.metrics(), directory.picture, recipe.name)
            if result.evaluation_error:
                raise RunError(unevaluated(result.evaluation_error, directory))
    return result


async def _run(
    recipe: Recipe,
    given: Given,
    directory: RunDirectory,
    models: Mapping[str, Path],
    console: Console,
    trackers: Trackers,
) -> Result:
    # asyncio.run turns the first SIGINT into a cancellation of this task: everything below is then stopped in order.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)
    key = admin_key(None if recipe.ingest.url else directory.ingest)
    latest = directory.latest()
    state = latest[1] if latest else State()
    if recipe.rollouts.max_staleness or recipe.sessions or (recipe.agent and recipe.agent.quarantine):
        state = renumbered(state, directory)
    began = time.monotonic() - state.wall_s
    async with contextlib.AsyncExitStack() as stack:
        progress = stack.enter_context(Progress(console, recipe.steps, state.step))
        progress.phase("starting Ray actors, ingest, engine and proxy", 0)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        services = Services(stack, directory, {ADMIN_KEY_VARIABLE: key})
        begin = {name: of_policy(latest[0], name) if latest else model for name, model in models.items()}
        weights = {name: Weights(folder, state.version) for name, folder in begin.items()}
        trainers, engines, ingest_url = await everything(
            trainers_of(recipe, models), services.engines(recipe, models, weights), services.ingest(recipe, directory)
        )
        proxy = ProxyClient(await services.proxy(recipe, models, directory, engines, ingest_url), key, http)
        policy = Routed(trainers)
        if latest:
            await policy.load(latest[0])
        fleets = await fleets_of(recipe, engines, weights, services, door=Door(proxy), http=http, progress=progress)
        weights_at = stack.enter_context(weights_folder(recipe, directory, models.values()))
        publisher = await publishers_of(recipe, stack, fleets, trainers, weights_at)
        if recipe.sessions and recipe.engine.url and not latest:
            state = await after_others(state, fleets.values(), directory)
        if latest or recipe.engine.url:
            # Also where the engines began with a checkpoint: it goes with time, and one may have to begin once more.
            await publisher.publish(state.version)
        ingest = IngestClient(ingest_url, key, http)
        ground = Ground(
            stack=stack,
            recipe=recipe,
            given=given,
            directory=directory,
            ingest=ingest,
            proxy=proxy,
            admin_key=key,
            progress=progress,
        )
        attempts = await attempts_of(ground)
        draws = draws_of(recipe, given.tasks, state.rates, directory.draws)
        checkpoints = Checkpoints(
            directory, policy, ingest, models=models, keep=recipe.checkpoints.keep, saved=state.step
        )
        world = World(
            recipe=recipe,
            draws=draws,
            heldout=given.heldout,
            policy=policy,
            scorers=await scorers_of(recipe, models),
            publisher=publisher,
            feed=await flow_of(ground, attempts, draws, state),
            attempts=attempts,
            ingest=ingest,
            directory=directory,
            checkpoints=await stack.enter_async_context(checkpoints),
            progress=progress,
            trackers=trackers,
        )
        return await unless(services.failed(), train(world, state, began))
    raise AssertionError("the exit stack suppresses nothing")


async def after_others(state: State, fleets: Iterable[Fleet], directory: RunDirectory) -> State:
    """Let a run that begins count on from the weights that its engines sampled sessions with already."""
    version = max([await fleet.newest_version() for fleet in fleets]) + 1
    directory.note_version(version)
    return structs.replace(state, version=version)


def renumbered(state: State, directory: RunDirectory) -> State:
    """Give a checkpoint's weights a new version, where newer ones existed that no checkpoint holds.

    Rollouts that the lost weights sampled may still be there; so a version stays the name of one set of weights. A
    synchronous run on tasks needs no such care: it makes the same weights again, unless it has set tasks aside since.
    """
    newest = directory.newest_version()
    if newest <= state.version:
        return state
    directory.note_version(newest + 1)
    return structs.replace(state, version=newest + 1)
