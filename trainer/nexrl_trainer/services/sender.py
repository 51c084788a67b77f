"""The process that sends weights to engines by broadcast: a Ray actor beside the trainer's first rank, on its GPU.

A process of its own, because what waits in Gloo or NCCL for an engine that is lost can only be ended with its process.
"""

import os
from collections.abc import Sequence
from typing import Any

import ray
from ray.exceptions import RayActorError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from nexrl.errors import ConfigError, ServiceError
from nexrl_trainer.engines.generations import Group
from nexrl_trainer.engines.layout import Portion
from nexrl_trainer.policy.placed import Place


class _Sender:
    """The actor."""

    def __init__(self, gpus: str) -> None:
        # Ours to name: Ray shows no GPU to an actor that asks for none. Torch looks once, when it is first used.
        os.environ["CUDA_VISIBLE_DEVICES"] = gpus
        from nexrl_trainer.engines.sending import GroupSender

        self._sender = GroupSender()

    def open(self, engines: Sequence[str]) -> tuple[str, int]:
        return self._sender.open(engines)

    def join(self, group: Group) -> None:
        self._sender.join(group)

    def send(self, portions: Sequence[Portion]) -> None:
        self._sender.send(portions)


class PlacedSender:
    """`broadcast.Sender` in an actor."""

    def __init__(self, place: Place) -> None:
        remote: Any = ray.remote(_Sender)
        here = NodeAffinitySchedulingStrategy(place.node, soft=False)
        self.actor = remote.options(num_cpus=0, scheduling_strategy=here).remote(place.gpus)

    async def open(self, engines: Sequence[str]) -> tuple[str, int]:
        return await self._answer(self.actor.open.remote(list(engines)))

    async def join(self, group: Group) -> None:
        await self._answer(self.actor.join.remote(group))

    async def send(self, portions: Sequence[Portion]) -> None:
        await self._answer(self.actor.send.remote(list(portions)))

    async def end(self) -> None:
        ray.kill(self.actor)

    async def _answer(self, reference: Any) -> Any:
        try:
            return await reference
        except RayTaskError as error:
            cause = error.cause
            if isinstance(cause, ConfigError):
                raise cause from None
            raise ServiceError(f"engine.publication=broadcast: {type(cause).__name__}: {cause}") from None
        except RayActorError as error:
            raise ServiceError(f"engine.publication=broadcast: the process that sends weights died: {error}") from None
