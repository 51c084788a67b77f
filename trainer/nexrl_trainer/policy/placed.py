"""A training backend in a Ray actor, as the loop sees it.

Datums travel as MessagePack: one encoding for the wire, the disk and the actor.
"""

from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError

from nexrl.errors import ServiceError
from nexrl.records import Float32s, decode, encode
from nexrl_trainer.algorithms.clip import Clip
from nexrl_trainer.policy.batches import Datum
from nexrl_trainer.policy.service import Optimizer, Step, TokenSums
from nexrl_trainer.recipe.tree import Train


@ray.remote
class _Worker:
    """The backend, in whatever process and on whatever machine Ray chose."""

    def __init__(self, model: str, config: Train) -> None:
        from nexrl_trainer.policy.torch_backend import TorchBackend

        self.backend = TorchBackend(Path(model), config)

    def ready(self) -> bool:
        return True

    def forward(self, datums: bytes) -> bytes:
        return encode(self.backend.forward(decode(datums, list[Datum])))

    def forward_backward(self, datums: bytes, clip: Clip, normaliser: int) -> TokenSums:
        return self.backend.forward_backward(decode(datums, list[Datum]), clip, normaliser)

    def optim_step(self, optimizer: Optimizer) -> Step:
        return self.backend.optim_step(optimizer)

    def save(self, folder: str) -> None:
        self.backend.save(Path(folder))

    def load(self, folder: str) -> None:
        self.backend.load(Path(folder))

    def publish_weights(self, folder: str) -> None:
        self.backend.publish_weights(Path(folder))


class PlacedTrainService:
    """`TrainService` on a Ray actor."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    @classmethod
    async def start(cls, model: Path, config: Train, *, gpus: float) -> "PlacedTrainService":
        """Place the backend and wait until the model is loaded."""
        placed: Any = _Worker.options(num_cpus=config.threads, num_gpus=gpus)
        actor = placed.remote(str(model), config)
        await _answer(actor.ready.remote())
        return cls(actor)

    async def forward(self, datums: list[Datum]) -> list[Float32s]:
        return decode(await _answer(self._actor.forward.remote(encode(datums))), list[Float32s])

    async def forward_backward(self, datums: list[Datum], clip: Clip, normaliser: int) -> TokenSums:
        return await _answer(self._actor.forward_backward.remote(encode(datums), clip, normaliser))

    async def optim_step(self, optimizer: Optimizer) -> Step:
        return await _answer(self._actor.optim_step.remote(optimizer))

    async def save(self, folder: Path) -> None:
        await _answer(self._actor.save.remote(str(folder)))

    async def load(self, folder: Path) -> None:
        await _answer(self._actor.load.remote(str(folder)))

    async def publish_weights(self, folder: Path) -> None:
        await _answer(self._actor.publish_weights.remote(str(folder)))


async def _answer(reference: Any) -> Any:
    """Await an actor's answer; what failed there is raised here, its own traceback left out."""
    try:
        return await reference
    except RayTaskError as error:
        cause = error.cause
        raise ServiceError(f"training backend: {type(cause).__name__}: {cause}") from None
    except RayActorError as error:
        raise ServiceError(f"training backend: its process died ({error}); out of memory?") from None
