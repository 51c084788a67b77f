"""One run, from recipe to summary: start what is needed, run the loop, stop what was started."""

import asyncio
import contextlib
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError
from rich.console import Console

from nexrl.errors import ServiceError
from nexrl.keys import ADMIN_KEY_VARIABLE, admin_key
from nexrl_ingest.client import IngestClient
from nexrl_trainer.batches.scoring import Scorers
from nexrl_trainer.cluster import cluster, gpus
from nexrl_trainer.directory import RunDirectory, State
from nexrl_trainer.engines.publisher import Publisher
from nexrl_trainer.inputs import Given, prepare_model
from nexrl_trainer.loop import Result, World, train, write_summary
from nexrl_trainer.picture import draw_rewards
from nexrl_trainer.policy.placed import PlacedTrainService
from nexrl_trainer.progress import Progress
from nexrl_trainer.recipe import Recipe
from nexrl_trainer.recipe.tree import SamplingPolicy
from nexrl_trainer.rollouts.collect import Collector
from nexrl_trainer.rollouts.proxy import ProxyClient
from nexrl_trainer.services import ServiceProcess

WATCH_S = 1.0
STOP_S = 20.0


def run(recipe: Recipe, given: Given, directory: RunDirectory, console: Console) -> Result:
    """Run the recipe in the directory, from its newest checkpoint if it has one.

    Raises NexrlError for what people can mend. Ctrl-C stops everything and raises KeyboardInterrupt.
    """
    with directory.opened(recipe):
        model = prepare_model(recipe, console)
        with cluster(recipe):
            result = asyncio.run(_run(recipe, given, directory, model, console))
        write_summary(directory, result)
        draw_rewards(directory.metrics(), directory.picture, recipe.name)
    return result


async def _run(recipe: Recipe, given: Given, directory: RunDirectory, model: Path, console: Console) -> Result:
    # asyncio.run turns the first SIGINT into a cancellation of this task: everything below is then stopped in order.
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, signal.raise_signal, signal.SIGINT)
    key = admin_key(directory.ingest)
    latest = directory.latest()
    folder, state = latest or (model, State())
    began = time.monotonic() - state.wall_s
    async with contextlib.AsyncExitStack() as stack:
        progress = stack.enter_context(Progress(console, recipe.steps, state.step))
        progress.phase("starting Ray actors, ingest, engine and proxy", 0)
        http = await stack.enter_async_context(aiohttp.ClientSession())
        services = Services(stack, directory, {ADMIN_KEY_VARIABLE: key})
        policy, engine, ingest_url = await _all(
            PlacedTrainService.start(model, recipe.train, gpus=_gpu_share(recipe)),
            services.engine(recipe, folder, state.version),
            services.local("ingest", ["ingest", "--port", str(recipe.ingest.port), "--data", str(directory.ingest)]),
        )
        proxy_url = await services.local("proxy", _proxy_arguments(recipe, model, directory, engine, ingest_url))
        if latest:
            await policy.load(folder)
        publisher = Publisher(engine, directory.weights, http)
        if recipe.engine.kind != "embedded":
            await publisher.publish(policy, state.version)
        ingest = IngestClient(ingest_url, key, http)
        collector = Collector(
            agent=recipe.agent,
            folder=recipe.resolve("."),
            model_name=recipe.name,
            rewards=given.rewards,
            ingest=ingest,
            proxy=ProxyClient(proxy_url, key, http),
            admin_key=key,
            on_outcome=progress.rollout,
        )
        world = World(
            recipe=recipe,
            tasks=given.tasks,
            heldout=given.heldout,
            policy=policy,
            scorers=await _scorers(recipe, model),
            model=model,
            publisher=publisher,
            collector=collector,
            ingest=ingest,
            directory=directory,
            progress=progress,
        )
        return await _unless(services.failed(), train(world, state, began))
    raise AssertionError("the exit stack suppresses nothing")


class Services:
    """The processes of one run; each is stopped, newest first, when the stack unwinds."""

    def __init__(
        self, stack: contextlib.AsyncExitStack, directory: RunDirectory, environment: Mapping[str, str]
    ) -> None:
        self._stack = stack
        self._logs = directory.logs
        self._environment = environment
        self._watched: list[tuple[str, Callable[[], Any]]] = []

    async def local(self, name: str, arguments: list[str]) -> str:
        """Start `nexrl ...` on this machine and return its address."""
        argv = [sys.executable, "-m", "nexrl.cli", *arguments, "--exit-with-parent"]
        process = ServiceProcess(name, argv, str(self._logs / f"{name}.log"), self._environment)
        self._stack.push_async_callback(asyncio.to_thread, process.stop)
        url = await asyncio.to_thread(process.url)
        self._watched.append((name, lambda: asyncio.to_thread(process.ended)))
        return url

    async def engine(self, recipe: Recipe, model: Path, version: int) -> str:
        """Return the engine's address, started first where it is the embedded one."""
        config = recipe.engine
        if config.url:
            return config.url
        argv = [sys.executable, "-m", "nexrl_trainer.engines.embedded", "--model", str(model), "--port", "0"]
        argv += ["--max-running", str(config.max_running)]
        argv += [] if config.max_length is None else ["--max-length", str(config.max_length)]
        argv += ["--device", recipe.train.device, "--dtype", recipe.train.dtype]
        argv += ["--threads", str(config.threads), "--seed", str(recipe.seed), "--weight-version", str(version)]
        # Several calls at once, so that a start that hangs can be stopped.
        placed: Any = ray.remote(ServiceProcess)
        actor = placed.options(num_cpus=config.threads, num_gpus=_gpu_share(recipe), max_concurrency=4).remote(
            "engine", [*argv, "--exit-with-parent"], str(self._logs / "engine.log"), {}
        )
        self._stack.push_async_callback(_stop_actor, actor)
        url = await _service_answer("engine", actor.url.remote())
        self._watched.append(("engine", lambda: _service_answer("engine", actor.ended.remote())))
        return url

    async def failed(self) -> ServiceError:
        """Return once one of the services has ended by itself."""
        while True:
            for name, ended in self._watched:
                if how := await ended():
                    return ServiceError(f"{name} ended during the run: {how}")
            await asyncio.sleep(WATCH_S)


def _proxy_arguments(recipe: Recipe, model: Path, directory: RunDirectory, engine: str, ingest: str) -> list[str]:
    where = ["--port", str(recipe.proxy.port), "--engine", engine, "--ingest", ingest, "--data", str(directory.proxy)]
    parsers = ["--tool-parser", recipe.proxy.tool_parser, "--reasoning-parser", recipe.proxy.reasoning_parser]
    policy = ["--history", recipe.proxy.history, "--sampling", _sampling_policy(recipe.proxy.sampling)]
    return [
        "proxy",
        *where,
        "--model",
        str(model),
        *parsers,
        *policy,
        "--served-model",
        recipe.name,
        "--require-session",
    ]


def _sampling_policy(policy: SamplingPolicy) -> str:
    """Return the policy as the proxy reads it: only what is set."""
    set_ = {
        mode: {
            kind: {name: value for name, value in msgspec.structs.asdict(part).items() if value is not None}
            for kind, part in (("force", rule.force), ("default", rule.default))
        }
        for mode, rule in (("train", policy.train), ("eval", policy.eval))
    }
    return msgspec.json.encode(set_).decode()


async def _scorers(recipe: Recipe, model: Path) -> Scorers:
    """Load the other policies that the algorithm needs, each placed as the policy is."""
    started = [
        PlacedTrainService.start(recipe.resolve(path) if path else model, recipe.train, gpus=_gpu_share(recipe))
        for path in recipe.algorithm.scorers.values()
    ]
    return Scorers(**dict(zip(recipe.algorithm.scorers, await _all(*started), strict=True)))


def _gpu_share(recipe: Recipe) -> float:
    """One GPU is shared by policy, embedded engine and what else scores tokens; no GPU, no share."""
    shared = 2 + len(recipe.algorithm.scorers)
    return 1 / shared if recipe.train.device != "cpu" and gpus() else 0.0


async def _service_answer(name: str, reference: Any) -> Any:
    try:
        return await reference
    except RayTaskError as error:
        raise ServiceError(str(error.cause)) from None
    except RayActorError as error:
        raise ServiceError(f"{name}: its Ray actor died: {error}") from None


async def _stop_actor(actor: Any) -> None:
    with contextlib.suppress(RayError, TimeoutError):
        async with asyncio.timeout(STOP_S):
            await actor.stop.remote()
    ray.kill(actor)


async def _all(*awaitables: Any) -> list[Any]:
    """Await all; the first failure cancels the rest and is raised as itself."""
    tasks = [asyncio.ensure_future(item) for item in awaitables]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()


async def _unless(failure: Any, work: Any) -> Any:
    """Return what `work` returns, unless `failure` returns an error first, which is then raised."""
    watcher, worker = asyncio.ensure_future(failure), asyncio.ensure_future(work)
    try:
        await asyncio.wait({watcher, worker}, return_when=asyncio.FIRST_COMPLETED)
        if worker.done():
            return worker.result()
        raise watcher.result()
    finally:
        for task in (watcher, worker):
            task.cancel()
        await asyncio.gather(watcher, worker, return_exceptions=True)
