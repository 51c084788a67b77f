"""A training backend in Ray actors, one a rank, as the loop sees it.

Every call goes to all ranks, which answer alike. Datums travel as MessagePack: one encoding for the wire, the disk and
the actor.
"""

import asyncio
import os
import socket
from collections.abc import Awaitable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import ray
from msgspec import Struct
from ray.exceptions import RayActorError, RayTaskError
from ray.util.placement_group import placement_group, remove_placement_group
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from nexrl.errors import ServiceError
from nexrl.records import Float32s, decode, encode
from nexrl_trainer.algorithms.objective import Objective
from nexrl_trainer.batches.datums import Datum
from nexrl_trainer.policy.service import Capabilities, Optimizer, Step, Sums
from nexrl_trainer.recipe.train import Train

PLACEMENT_S = 120.0
"""A cluster that grows by itself may add nodes in this time."""


class Place(Struct, frozen=True):
    """Where a rank computes."""

    node: str
    """Ray's id of the machine."""
    gpus: str
    """Its CUDA_VISIBLE_DEVICES; empty without a GPU."""


class _Worker:
    """A rank of the backend, in whatever process and on whatever machine Ray chose."""

    backend: Any

    def __init__(self) -> None:
        self.writer = ThreadPoolExecutor(1, "checkpoint")
        self.writing: dict[str, Future[None]] = {}

    def meeting_point(self) -> tuple[str, int]:
        """Return this machine's address and a free port."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            return ray.util.get_node_ip_address(), probe.getsockname()[1]

    def place(self) -> Place:
        return Place(ray.get_runtime_context().get_node_id(), os.environ.get("CUDA_VISIBLE_DEVICES", ""))

    def open(self, model: str, config: Train, rank: int, meeting_point: tuple[str, int]) -> None:
        if config.backend == "torch":
            from nexrl_trainer.policy.torch_backend import TorchBackend

            self.backend = TorchBackend(Path(model), config)
            return
        from nexrl_trainer.policy.ranked import Rank

        host, port = meeting_point
        where = Rank(rank=rank, ranks=config.ranks, host=host, port=port)
        if config.backend == "deepspeed":
            from nexrl_trainer.policy.deepspeed_backend import DeepSpeedBackend

            self.backend = DeepSpeedBackend(Path(model), config, where)
        else:
            from nexrl_trainer.policy.fsdp_backend import FsdpBackend

            self.backend = FsdpBackend(Path(model), config, where)

    def capabilities(self) -> Capabilities:
        return self.backend.capabilities()

    def forward(self, datums: bytes) -> bytes:
        return encode(self.backend.forward(decode(datums, list[Datum])))

    def forward_backward(self, datums: bytes, objective: Objective) -> Sums:
        return self.backend.forward_backward(decode(datums, list[Datum]), objective)

    def optim_step(self, optimizer: Optimizer) -> Step:
        return self.backend.optim_step(optimizer)

    def save(self, folder: str) -> None:
        """Copy the state, and begin to write it; `saved` waits for the end."""
        # Two copies at a time would be one too many for the memory.
        wait(list(self.writing.values()))
        self.writing[folder] = self.writer.submit(self.backend.save(Path(folder)))

    @ray.method(concurrency_group="writing")
    def saved(self, folder: str) -> None:
        self.writing.pop(folder).result()

    def load(self, folder: str) -> None:
        self.backend.load(Path(folder))

    def publish_weights(self, folder: str) -> None:
        self.backend.publish_weights(Path(folder))

    def publish_adapter(self, folder: str) -> None:
        self.backend.publish_adapter(Path(folder))


class PlacedTrainService:
    """`TrainService` on Ray actors."""

    def __init__(self, actors: list[Any], group: Any) -> None:
        self._actors = actors
        self._group = group

    @classmethod
    async def start(cls, model: Path, config: Train, *, gpus: float) -> "PlacedTrainService":
        """Place the ranks and wait until the model is loaded; `gpus` is the share of a GPU that one alone takes.

        Raises ServiceError where that fails.
        """
        if gpus and config.ranks > 1:
            gpus = 1.0  # NCCL refuses two ranks on one GPU
        bundle = {"CPU": float(config.threads)} | ({"GPU": gpus} if gpus else {})
        group = placement_group([bundle] * config.ranks)
        try:
            async with asyncio.timeout(PLACEMENT_S):
                await group.ready()
        except TimeoutError as error:
            remove_placement_group(group)
            wanted = ", ".join(f"{amount:g} {name}" for name, amount in bundle.items())
            raise ServiceError(
                f"the Ray cluster has no room for train.ranks={config.ranks} of {wanted} each (waited "
                f"{PLACEMENT_S:g} s; it has {ray.available_resources()}): lower train.ranks, or add nodes"
            ) from error
        actors = [_place(group, index, config.threads, gpus) for index in range(config.ranks)]
        meeting_point = await _answer(actors[0].meeting_point.remote())
        service = cls(actors, group)
        await asyncio.gather(
            *(_answer(actor.open.remote(str(model), config, rank, meeting_point)) for rank, actor in enumerate(actors))
        )
        return service

    async def place(self) -> Place:
        """Return where the first rank computes."""
        return await _answer(self._actors[0].place.remote())

    async def capabilities(self) -> Capabilities:
        return await self._all("capabilities")

    async def forward(self, datums: list[Datum]) -> list[Float32s]:
        return decode(await self._all("forward", ray.put(encode(datums))), list[Float32s])

    async def forward_backward(self, datums: list[Datum], objective: Objective) -> Sums:
        return await self._all("forward_backward", ray.put(encode(datums)), objective)

    async def optim_step(self, optimizer: Optimizer) -> Step:
        return await self._all("optim_step", optimizer)

    def save(self, folder: Path) -> Awaitable[None]:
        # Called now, so that whatever is called next finds it in front.
        copied = self._call("save", str(folder))

        async def written() -> None:
            await _answers(copied)
            await self._all("saved", str(folder))

        return asyncio.ensure_future(written())

    async def load(self, folder: Path) -> None:
        await self._all("load", str(folder))

    async def publish_weights(self, folder: Path) -> None:
        await self._all("publish_weights", str(folder))

    async def publish_adapter(self, folder: Path) -> None:
        await self._all("publish_adapter", str(folder))

    async def stop(self) -> None:
        """End the ranks and give back what they took of the cluster."""
        await asyncio.to_thread(remove_placement_group, self._group)

    async def _all(self, method: str, *arguments: Any) -> Any:
        """Call every rank; return the first one's answer."""
        return await _answers(self._call(method, *arguments))

    def _call(self, method: str, *arguments: Any) -> list[Any]:
        return [getattr(actor, method).remote(*arguments) for actor in self._actors]


def _place(group: Any, index: int, cpus: int, gpus: float) -> Any:
    strategy = PlacementGroupSchedulingStrategy(placement_group=group, placement_group_bundle_index=index)
    remote: Any = ray.remote
    return (
        remote(concurrency_groups={"writing": 1})(_Worker)
        .options(num_cpus=cpus, num_gpus=gpus, scheduling_strategy=strategy)
        .remote()
    )


async def _answers(references: list[Any]) -> Any:
    return (await asyncio.gather(*map(_answer, references)))[0]


async def _answer(reference: Any) -> Any:
    """Await an actor's answer; what failed there is raised here, its own traceback left out."""
    try:
        return await reference
    except RayTaskError as error:
        cause = error.cause
        raise ServiceError(f"training backend: {type(cause).__name__}: {cause}") from None
    except RayActorError as error:
        raise ServiceError(f"training backend: its process died ({error}); out of memory?") from None
