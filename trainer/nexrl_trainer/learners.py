"""The models that learn in a run, and what each takes: a trainer, a fleet of engines, a way for its weights to them.

Everything here is by the model's name (`Call.policy`). That they step together is `policy/routed.py`'s part.
"""

import contextlib
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from nexrl_trainer.awaiting import everything
from nexrl_trainer.batches.scoring import Scorers
from nexrl_trainer.cluster import gpu_share
from nexrl_trainer.directory import of_policy
from nexrl_trainer.engines.broadcast import Broadcast
from nexrl_trainer.engines.door import Door
from nexrl_trainer.engines.fleet import Fleet, Weights
from nexrl_trainer.engines.publisher import Publisher
from nexrl_trainer.engines.publishers import Publishers
from nexrl_trainer.policy.placed import PlacedTrainService
from nexrl_trainer.policy.routed import Routed
from nexrl_trainer.progress import Progress
from nexrl_trainer.recipe import Recipe
from nexrl_trainer.services.running import Fleets, Services
from nexrl_trainer.services.sender import PlacedSender

Trainers = Mapping[str, PlacedTrainService]


async def trainers_of(recipe: Recipe, models: Mapping[str, Path]) -> dict[str, PlacedTrainService]:
    """Start the train service of each model."""
    started = [PlacedTrainService.start(model, recipe.train, gpus=gpu_share(recipe)) for model in models.values()]
    return dict(zip(models, await everything(*started), strict=True))


async def scorers_of(recipe: Recipe, models: Mapping[str, Path]) -> Scorers:
    """Start the other policies that the algorithm needs; one without a path is where each model began.

    One with a path scores the only model that there is (`recipe/together.py`).
    """
    folders = [{"": recipe.resolve(path)} if path else models for path in recipe.algorithm.scorers.values()]
    started = await everything(*(trainers_of(recipe, of_one) for of_one in folders))
    return Scorers(**dict(zip(recipe.algorithm.scorers, map(Routed, started), strict=True)))


async def fleets_of(
    recipe: Recipe,
    engines: Fleets,
    weights: Mapping[str, Weights],
    services: Services,
    *,
    door: Door,
    http: aiohttp.ClientSession,
    progress: Progress,
) -> dict[str, Fleet]:
    """Return the fleets of engines that began with these weights, watched from now on; raises ConfigError."""
    fleets = {
        name: await Fleet.of(of_one, recipe.engine, weights[name], door=door, http=http, say=progress.note)
        for name, of_one in engines.items()
    }
    for fleet in fleets.values():
        services.watch("engine", fleet.failed)
    return fleets


async def publishers_of(
    recipe: Recipe, stack: contextlib.AsyncExitStack, fleets: Mapping[str, Fleet], trainers: Trainers, folder: Path
) -> Publishers:
    """Return what publishes the models, each from its part of a folder; what is started for that ends with `stack`."""
    return Publishers(
        [
            (await _publisher(recipe, stack, fleet, trainers[name], of_policy(folder, name)), trainers[name])
            for name, fleet in fleets.items()
        ]
    )


async def _publisher(
    recipe: Recipe, stack: contextlib.AsyncExitStack, fleet: Fleet, trainer: PlacedTrainService, folder: Path
) -> Publisher:
    """Return what publishes one model, to all engines at once where the recipe wants that."""
    broadcast = None
    if recipe.engine.publication == "broadcast":
        place = await trainer.place()
        broadcast = Broadcast(fleet, lambda: PlacedSender(place))
        stack.push_async_callback(broadcast.close)
    return Publisher(fleet, folder, recipe.engine, adapters=recipe.publishes_adapters, broadcast=broadcast)
