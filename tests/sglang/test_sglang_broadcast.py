"""Weights to a real SGLang through a process group, from the process that a run sends them from."""

import asyncio
import functools

import pytest
import ray
from sglang_world import Heard, Server, some_tokens, work

from nexrl.errors import ServiceError
from nexrl_trainer.engines.broadcast import Broadcast
from nexrl_trainer.engines.fleet import Fleet, Member, Weights
from nexrl_trainer.engines.layout import portions
from nexrl_trainer.engines.verification import Published, verify
from nexrl_trainer.policy.placed import Place
from nexrl_trainer.services.sender import PlacedSender

PROMPT = [72, 101, 108, 108, 111, 44, 32]
LONG = 400


@pytest.fixture(scope="module")
def place():
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False)
    yield Place(ray.get_runtime_context().get_node_id(), "")
    ray.shutdown()


class Senders(list):
    """Every sender that was started."""

    def start(self, place: Place) -> PlacedSender:
        self.append(PlacedSender(place))
        return self[-1]


@pytest.fixture
def senders():
    return Senders()


@pytest.fixture
async def broadcast(server: Server, place, senders, monkeypatch):
    """To the one server, some tensors at a time."""
    monkeypatch.setattr("nexrl_trainer.engines.broadcast.portions", functools.partial(portions, most=40_000))
    generation = await server.client.generation("sglang")
    begun_with = Weights(server.folders[server.version], server.version)
    fleet = Fleet([Member(server.client, generation, None)], begun_with, None, print)
    found = Broadcast(fleet, lambda: senders.start(place))
    yield found
    await found.close()


async def publish(server: Server, broadcast) -> int:
    """Update to other weights; return their version."""
    version, folder = server.version + 1, server.other_weights()
    await broadcast.bring(Weights(folder, version))
    server.folders[version] = folder
    return version


async def test_weights_by_broadcast_sample_the_very_next_token_under_their_version(server: Server, broadcast, senders):
    old = await publish(server, broadcast)
    heard = Heard()
    running = asyncio.create_task(server.engine.complete(work("broadcast", PROMPT, LONG, stream=True), heard))
    await some_tokens(heard, 20)
    first = await publish(server, broadcast)
    await some_tokens(heard, len(heard.completion.ids) + 20)
    second = await publish(server, broadcast)
    verify("sglang", second, Published(server.folders[second]), await server.client.checksums())
    assert server.assert_sampled(await server.generate(PROMPT, 20), PROMPT) == [second]
    await running
    assert sorted(set(heard.completion.weight_versions)) == [old, first, second]
    server.assert_completion(heard.completion, PROMPT)
    assert len(senders) == 1


async def test_a_sender_that_dies_lets_the_server_go_and_requests_wait_for_a_whole_update(
    server: Server, broadcast, senders
):
    await publish(server, broadcast)
    [sender] = senders

    async def dies(_):
        await asyncio.sleep(1.0)
        ray.kill(sender.actor)
        await sender.open([])

    sender.send = dies
    # Whoever notices first says so.
    with pytest.raises(ServiceError, match=r"the process that sends weights died|Connection closed by peer"):
        await broadcast.bring(Weights(server.other_weights(), server.version + 1))
    waiting = asyncio.create_task(server.generate(PROMPT, 20))
    await asyncio.sleep(1.0)
    assert not waiting.done()
    version = await publish(server, broadcast)
    assert server.assert_sampled(await waiting, PROMPT) == [version]
    assert len(senders) == 2
