"""The services of one run: started where they belong, watched, and stopped with it."""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import ray
from ray.exceptions import RayError

from nexrl.errors import ConfigError, ServiceError
from nexrl_trainer.directory import RunDirectory
from nexrl_trainer.engines.fleet import Weights
from nexrl_trainer.files import write_whole
from nexrl_trainer.recipe import Recipe
from nexrl_trainer.services import commands
from nexrl_trainer.services.commands import nexrl
from nexrl_trainer.services.engines import LOOPBACK, PlacedEngine, start_all
from nexrl_trainer.services.process import ServiceProcess

WATCH_S = 1.0
STOP_S = 20.0
Fleet = dict[str, PlacedEngine | None]
"""Engines by their addresses; None where somebody else runs it."""
Fleets = dict[str, Fleet]
"""Those of each model that learns, by `Call.policy`."""
Ended = Callable[[], Awaitable[str | None]]
"""Says how a service ended, None while it runs."""


class Services:
    """The processes of one run; each is stopped, newest first, when the stack unwinds."""

    def __init__(
        self, stack: contextlib.AsyncExitStack, directory: RunDirectory, environment: Mapping[str, str]
    ) -> None:
        self._stack = stack
        self._logs = directory.logs
        self._environment = environment
        self._watched: list[tuple[str, Ended]] = []

    async def local(self, name: str, arguments: list[str]) -> str:
        """Start `nexrl ...` on this machine and return its address."""
        process = ServiceProcess(name, nexrl(arguments), str(self._logs / f"{name}.log"), self._environment)
        self._stack.push_async_callback(asyncio.to_thread, process.stop)
        url = from_here(await asyncio.to_thread(process.url))
        self.watch(name, lambda: asyncio.to_thread(process.ended))
        return url

    async def ingest(self, recipe: Recipe, directory: RunDirectory) -> str:
        """Return the address of ingest, started first where it is the run's own."""
        if recipe.ingest.url:
            return recipe.ingest.url
        return await self.local("ingest", commands.ingest(recipe, directory))

    async def proxy(
        self, recipe: Recipe, models: Mapping[str, Path], directory: RunDirectory, engines: Fleets, ingest: str
    ) -> str:
        """Return the address of the proxy, started first where it is the run's own."""
        if recipe.proxy.url:
            return recipe.proxy.url
        urls = {name: ",".join(fleet) for name, fleet in engines.items()}
        write_models(recipe, models, directory, urls)
        return await self.local("proxy", commands.proxy(recipe, models[""], directory, urls[""], ingest))

    async def engines(self, recipe: Recipe, models: Mapping[str, Path], weights: Mapping[str, Weights]) -> Fleets:
        """Return the engines of each model by their addresses, started first where they are the run's own."""
        if recipe.engine.url:
            urls = {"": recipe.engine.urls, **{name: policy.urls for name, policy in recipe.policies.items()}}
            return {name: dict.fromkeys(of_one) for name, of_one in urls.items()}
        # One after the other: each sizes its cache by the memory that it finds free.
        return {name: await self._started(recipe, name, models[name], weights[name]) for name in models}

    async def _started(self, recipe: Recipe, name: str, model: Path, weights: Weights) -> Fleet:
        engines = [PlacedEngine(recipe, model, index, self._logs, of=name) for index in range(recipe.engine.started)]
        for engine in engines:
            self._stack.push_async_callback(_stop_actor, engine.actor)
        return dict(zip(await start_all(engines, recipe, weights), engines, strict=True))

    def watch(self, name: str, ended: Ended) -> None:
        """From now on, `failed` looks after this too."""
        self._watched.append((name, ended))

    async def failed(self) -> ServiceError:
        """Return once one of the services has ended by itself."""
        watchers = [asyncio.create_task(_ended(name, ended)) for name, ended in self._watched]
        try:
            done, _ = await asyncio.wait(watchers, return_when=asyncio.FIRST_COMPLETED)
            return done.pop().result()
        finally:
            for watcher in watchers:
                watcher.cancel()
            await asyncio.gather(*watchers, return_exceptions=True)


def write_models(
    recipe: Recipe, models: Mapping[str, Path], directory: RunDirectory, engines: Mapping[str, str]
) -> None:
    """Write where the proxy finds the recipe's other models: those that learn, and those that do not."""
    directory.proxy.mkdir(parents=True, exist_ok=True)
    policies = {name: {"engine": engines[name], "model": str(models[name])} for name in recipe.policies}
    write_whole(directory.policies_file, msgspec.json.encode(policies))
    write_whole(directory.models_file, msgspec.json.encode(recipe.proxy.models))


def from_here(url: str) -> str:
    """Return the address at which this machine reaches a service that may listen on all of its addresses."""
    return url.replace("//0.0.0.0:", f"//{LOOPBACK}:").replace("//[::]:", "//[::1]:")


def refuse_taken_ports(recipe: Recipe) -> None:
    """Raise ConfigError where a service of the run could not listen as the recipe says, before anything is started."""
    for name, part in (("ingest", recipe.ingest), ("proxy", recipe.proxy)):
        if not part.url:
            refuse_taken(f"{name}.port", part.host, part.port)


def refuse_taken(setting: str, host: str, port: int) -> None:
    """Raise ConfigError, naming the recipe's setting, where nothing can listen on a port; 0 takes a free one.

    The service would say so too, but by the name of its own option.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        if error.errno == errno.EADDRNOTAVAIL:
            named = setting.replace("port", "host")
            raise ConfigError(f"{named}={host}: no address of this machine; set one, or 0.0.0.0 for all") from error
        raise ConfigError(
            f"{setting}={port}: {os.strerror(error.errno or 0)}; set another, or 0 for a free one"
        ) from error


async def _ended(name: str, ended: Ended) -> ServiceError:
    while True:
        if how := await ended():
            return ServiceError(f"{name} ended during the run: {how}")
        await asyncio.sleep(WATCH_S)


async def _stop_actor(actor: Any) -> None:
    with contextlib.suppress(RayError, TimeoutError):
        async with asyncio.timeout(STOP_S):
            await actor.stop.remote()
    ray.kill(actor)
