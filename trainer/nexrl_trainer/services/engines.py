"""Engines as processes of the run, each in a Ray actor: started where Ray puts them, and once more where they ended."""

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
from ray.exceptions import RayActorError, RayTaskError

from nexrl.errors import ServiceError
from nexrl_trainer.checkpointing import copy_tokenizer
from nexrl_trainer.cluster import engine_gpus
from nexrl_trainer.engines.fleet import Weights
from nexrl_trainer.engines.servers import flags
from nexrl_trainer.engines.servers.kinds import SERVERS
from nexrl_trainer.recipe import Recipe
from nexrl_trainer.services import commands
from nexrl_trainer.services.process import ServiceProcess

START_S = 1800.0
"""Large models take minutes to load."""
LOOPBACK = "127.0.0.1"


class Place:
    """The actor: a place for one engine. `public`: it is asked from other machines too."""

    def __init__(self, name: str, log: str, *, public: bool) -> None:
        self._name = name
        self._log = log
        self._host = ray.util.get_node_ip_address() if public else LOOPBACK
        self._port = 0
        self._process: ServiceProcess | None = None

    def refuse_unknown(self, recipe: Recipe) -> None:
        """Raise ConfigError for a flag that the server of this place does not have."""
        server = SERVERS[recipe.engine.kind]
        options = flags.installed(server, commands.server_python(recipe), commands.engine_environment(recipe))
        flags.refuse_unknown(server, recipe.engine.flags, options)

    def start(self, argv: list[str], environment: dict[str, str]) -> str:
        """Start the engine and return its address, which stays the same; raises ServiceError."""
        if self._process:
            self._process.stop()
        words = {commands.HOST: self._host, commands.PORT: str(self._port)}
        self._process = ServiceProcess(self._name, [words.get(word, word) for word in argv], self._log, environment)
        url = self._process.url(START_S)
        self._port = urlsplit(url).port or 0
        return url

    def ended(self) -> str | None:
        return self._process.ended() if self._process else "it was never started"

    def stop(self) -> None:
        if self._process:
            self._process.stop()


class PlacedEngine:
    """`fleet.Process` in a `Place`."""

    def __init__(self, recipe: Recipe, model: Path, index: int, logs: Path, *, of: str = "") -> None:
        """`of` is the name of the model, where several learn and this is not the first."""
        kind = f"{of}-engine" if of else "engine"
        self.name = kind if recipe.engine.started == 1 else f"{kind}-{index + 1}"
        self._recipe = recipe
        self._model = model
        self._index = index
        # Several calls at once, so that a start that hangs can be stopped.
        placed: Any = ray.remote(Place).options(
            num_cpus=recipe.engine.threads, num_gpus=engine_gpus(recipe), max_concurrency=4
        )
        log = str(logs / f"{self.name}.log")
        self.actor = placed.remote(self.name, log, public=recipe.ray.address is not None)

    async def refuse_unknown(self) -> None:
        """Raise ServiceError for flags that the installed server does not have."""
        await self._answer(self.actor.refuse_unknown.remote(self._recipe))

    async def start(self, weights: Weights) -> str:
        """Start it with these weights, or start it again at the same address, which is returned."""
        if weights.folder != self._model and not (weights.folder / "tokenizer.json").is_file():
            # What was published is weights alone.
            copy_tokenizer(self._model, weights.folder)
        argv = commands.engine(self._recipe, weights, self._index)
        return await self._answer(self.actor.start.remote(argv, commands.engine_environment(self._recipe)))

    async def ended(self) -> str | None:
        """Return how the process ended, or None while it runs; raises ServiceError where its machine is gone."""
        return await self._answer(self.actor.ended.remote())

    async def _answer(self, reference: Any) -> Any:
        try:
            return await reference
        except RayTaskError as error:
            raise ServiceError(str(error.cause)) from None
        except RayActorError as error:
            raise ServiceError(f"{self.name}: its Ray actor died: {error}") from None


async def start_all(engines: list[PlacedEngine], recipe: Recipe, weights: Weights) -> list[str]:
    """Start the engines of a run, the first one's flags checked before; return their addresses."""
    if recipe.engine.flags:
        await engines[0].refuse_unknown()
    # One after the other: each sizes its cache by the memory that it finds free.
    return [await engine.start(weights) for engine in engines]
