"""Several models that learn in one run, as one: every datum goes to the model that sampled it.

Each has a train service of its own, its own gradients and its own optimizer; what they share is the step.
"""

import asyncio
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path

from nexrl.records import Float32s
from nexrl_trainer.algorithms.objective import Objective
from nexrl_trainer.batches.datums import Datum
from nexrl_trainer.directory import of_policy
from nexrl_trainer.policy.service import Learns, Optimizer, Step, Sums, merged


class Routed:
    """`Learns`, over one service for each name that datums have as their `policy`."""

    def __init__(self, services: Mapping[str, Learns]) -> None:
        self._services = dict(services)
        self._pushed: set[str] = set()
        """Those with gradients since the last step."""

    async def forward(self, datums: list[Datum]) -> list[Float32s]:
        places = _places(datums)
        found = await asyncio.gather(
            *(self._services[name].forward([datums[place] for place in own]) for name, own in places.items())
        )
        columns = {
            place: column
            for own, of_one in zip(places.values(), found, strict=True)
            for place, column in zip(own, of_one, strict=True)
        }
        return [columns[place] for place in range(len(datums))]

    async def forward_backward(self, datums: list[Datum], objective: Objective) -> Sums:
        places = _places(datums)
        self._pushed |= places.keys()
        parts = await asyncio.gather(
            *(
                self._services[name].forward_backward([datums[place] for place in own], objective)
                for name, own in places.items()
            )
        )
        return merged(parts)

    async def optim_step(self, optimizer: Optimizer) -> Step:
        """Step the models that have gradients: without any, momentum and decay would move weights that learnt nothing.

        The norm is the largest of theirs; each was clipped by its own.
        """
        pushed, self._pushed = sorted(self._pushed), set()
        steps = await asyncio.gather(*(self._services[name].optim_step(optimizer) for name in pushed))
        return Step(grad_norm=max(step.grad_norm for step in steps))

    def save(self, folder: Path) -> Awaitable[None]:
        folders = {name: of_policy(folder, name) for name in self._services}
        for own in folders.values():
            own.mkdir(parents=True, exist_ok=True)
        return asyncio.ensure_future(_all([self._services[name].save(own) for name, own in folders.items()]))

    async def load(self, folder: Path) -> None:
        await asyncio.gather(*(service.load(of_policy(folder, name)) for name, service in self._services.items()))


def _places(datums: Sequence[Datum]) -> dict[str, list[int]]:
    """Return where the datums of each policy stand."""
    places: dict[str, list[int]] = {}
    for place, datum in enumerate(datums):
        places.setdefault(datum.policy, []).append(place)
    return places


async def _all(writing: Sequence[Awaitable[None]]) -> None:
    await asyncio.gather(*writing)
