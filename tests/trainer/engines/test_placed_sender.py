"""The sender of weights in its Ray actor: engines have what it sends, and it can be ended while it waits."""

import asyncio

import pytest
import ray
from test_broadcast import room_of

from nexrl.errors import ConfigError, ServiceError
from nexrl_trainer.engines.generations import Group
from nexrl_trainer.policy.placed import Place
from nexrl_trainer.services.sender import PlacedSender

pytestmark = [pytest.mark.slow, pytest.mark.soak]


@pytest.fixture(scope="module")
def place():
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield Place(ray.get_runtime_context().get_node_id(), "")
    ray.shutdown()


async def test_engines_have_what_the_actor_sends(tmp_path, place):
    async with room_of(tmp_path, sender=lambda: PlacedSender(place)) as room:
        for version in (1, 2):
            await room.publish(version)
            room.assert_held(version)


async def test_a_sender_that_waits_for_engines_is_ended_and_says_so(place):
    sender = PlacedSender(place)
    host, port = await sender.open(["http://127.0.0.1:1"])
    group = Group(name="g", backend="gloo", host=host, port=port, size=2)
    joining = asyncio.create_task(sender.join(group))
    await asyncio.sleep(0.5)
    assert not joining.done()
    await sender.end()
    with pytest.raises(ServiceError, match="the process that sends weights died"):
        await joining


async def test_engines_on_gpus_need_a_trainer_with_one(place):
    sender = PlacedSender(place)
    host, port = await sender.open(["http://127.0.0.1:1"])
    with pytest.raises(ConfigError, match="engines on GPUs are sent weights over NCCL, and the trainer has no GPU"):
        await sender.join(Group(name="g", backend="nccl", host=host, port=port, size=2))
    await sender.end()
