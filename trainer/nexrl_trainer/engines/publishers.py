"""The publishers of all models that learn in a run, as one."""

from collections.abc import Sequence

from nexrl_trainer.engines.publisher import Publisher
from nexrl_trainer.policy.service import TrainService


class Publishers:
    """Publishes each model's weights to its engines, all of them as the same version."""

    def __init__(self, publishers: Sequence[tuple[Publisher, TrainService]]) -> None:
        self._publishers = tuple(publishers)

    async def give_way(self) -> None:
        """Give the trainer the memory of engines that share its GPU, until the next publication."""
        for publisher, _ in self._publishers:
            await publisher.give_way()

    @property
    def gave_way(self) -> bool:
        """Whether somebody cannot sample before the next publication, be it of the same weights."""
        return any(publisher.gave_way for publisher, _ in self._publishers)

    async def publish(self, version: int) -> None:
        """Let every engine sample with its model's weights as `version`; raises as `Publisher.publish`."""
        for publisher, service in self._publishers:
            await publisher.publish(service, version)
