"""Weights sent to all engines at once, over a real process group; and what becomes of it when somebody is lost."""

import asyncio
import contextlib
import time

import pytest
import safetensors.torch
import torch
from group_world import JoiningEngine, ProcessSender
from scripted_fleet import fleet_of

from nexrl.errors import ServiceError
from nexrl_trainer.engines.broadcast import Broadcast
from nexrl_trainer.engines.client import UnreachableError
from nexrl_trainer.engines.generations import sglang
from nexrl_trainer.engines.layout import portions
from nexrl_trainer.engines.publisher import Publisher
from nexrl_trainer.engines.sending import reachable_by
from nexrl_trainer.recipe.engine import Engine

JOIN, SEND, LEAVE = "init_weights_update_group", "update_weights_from_distributed", "destroy_weights_update_group"
UPDATE = ["pause_generation", "begin_weight_update", SEND, SEND, "end_weight_update", "continue_generation"]
CONFIG = Engine(kind="sglang", publication="broadcast")
SOON_S = 10.0
"""Half of what a sender and its engines wait for each other."""


def weights(version):
    """Two portions: of float32, and of bfloat16."""
    generator = torch.Generator().manual_seed(version)
    return {
        "a": torch.randn(3, 5, generator=generator),
        "b": torch.randn(7, generator=generator),
        "c": torch.randn(2, 2, generator=generator).bfloat16(),
    }


class Policy:
    async def publish_weights(self, folder):
        safetensors.torch.save_file(weights(int(folder.name[1:])), folder / "model.safetensors")


class Room:
    def __init__(self, tmp_path, fleet, engines, journal, sender):
        self.fleet, self.engines, self.journal = fleet, engines, journal
        self.sender = sender
        self.senders = []
        self.broadcast = Broadcast(fleet, self.start)
        self.publisher = Publisher(fleet, tmp_path / "weights", CONFIG, broadcast=self.broadcast)

    def start(self):
        self.senders.append(self.sender())
        return self.senders[-1]

    async def publish(self, version):
        await self.publisher.publish(Policy(), version)

    def of(self, name):
        return [line.split()[1] for line in self.journal if line.startswith(f"{name} ")]

    def assert_held(self, version):
        for engine in self.engines:
            assert engine.version == str(version)
            for held in engine.held:
                assert held.keys() == weights(version).keys()
                assert all(torch.equal(held[name], tensor) for name, tensor in weights(version).items())


@contextlib.asynccontextmanager
async def room_of(tmp_path, *, ranks=1, sender=ProcessSender, **options):
    generation = sglang("0.5.23", ranks=ranks)
    async with fleet_of(tmp_path, generation=generation, kind=JoiningEngine, **options) as (
        fleet,
        engines,
        _,
        journal,
        _s,
    ):
        for engine in engines:
            engine.ranks_in_group = ranks
        room = Room(tmp_path, fleet, engines, journal, sender)
        try:
            yield room
        finally:
            await room.broadcast.close()


async def test_every_rank_of_every_engine_has_what_was_published_and_the_group_lasts(tmp_path):
    async with room_of(tmp_path, ranks=2) as room:
        for version in (1, 2):
            await room.publish(version)
            room.assert_held(version)
        assert room.of("engine-1") == room.of("engine-2") == [JOIN, *UPDATE, *UPDATE]
        assert len(room.senders) == 1
    assert room.senders[0].ended
    assert room.of("engine-1")[-1] == room.of("engine-2")[-1] == LEAVE


@pytest.mark.parametrize("route", [JOIN, "begin_weight_update", SEND])
async def test_an_engine_that_dies_in_the_middle_is_started_again_and_all_have_the_weights(tmp_path, route):
    async with room_of(tmp_path) as room:
        if route != JOIN:
            await room.publish(1)
        room.engines[0].dies_at.add(route)
        began = time.monotonic()
        await room.publish(2)
        assert time.monotonic() - began < SOON_S
        room.assert_held(2)
        assert [sender.ended for sender in room.senders] == [True, False]
        assert room.of("engine-1")[-8:] == ["starts", JOIN, *UPDATE]
        assert room.of("engine-2")[-7:] == [JOIN, *UPDATE]
        assert room.of("engine-2").count(LEAVE) == 1


async def test_an_engine_that_was_started_again_since_is_in_a_new_group(tmp_path):
    async with room_of(tmp_path) as room:
        await room.publish(1)
        await room.engines[1].close()
        assert await room.fleet.failed() is None
        await room.publish(2)
        room.assert_held(2)
        assert [sender.ended for sender in room.senders] == [True, False]


async def test_an_engine_that_its_owner_started_again_since_is_in_a_new_group(tmp_path):
    async with room_of(tmp_path, started=False) as room:
        await room.publish(1)
        room.engines[1].version, room.engines[1].peers = "default", []
        await room.publish(2)
        room.assert_held(2)
        assert len(room.senders) == 2


async def test_an_engine_that_somebody_else_runs_and_that_dies_ends_it_soon_and_the_others_stay_paused(tmp_path):
    async with room_of(tmp_path, started=False) as room:
        room.engines[0].dies_at.add(SEND)
        began = time.monotonic()
        with pytest.raises(UnreachableError, match=room.engines[0].url):
            await room.publish(1)
        assert time.monotonic() - began < SOON_S
        assert "continue_generation" not in room.of("engine-2")
        assert sorted(room.of("engine-2")[-2:]) == [LEAVE, "end_weight_update"]
        await room.engines[0].begin()
        await room.publish(2)
        room.assert_held(2)


@pytest.mark.parametrize("route", [JOIN, "pause_generation", SEND])
async def test_an_engine_that_refuses_is_named_and_nobody_waits_for_it(tmp_path, route):
    async with room_of(tmp_path) as room:
        room.engines[1].refuses.add(route)
        began = time.monotonic()
        with pytest.raises(ServiceError, match=f"{room.engines[1].url} refused .*: no {route} today"):
            await room.publish(1)
        assert time.monotonic() - began < SOON_S
        assert room.senders[0].ended
        room.engines[1].refuses.clear()
        await room.publish(2)
        room.assert_held(2)


async def test_a_sender_that_dies_lets_engines_go_and_is_told(tmp_path):
    async with room_of(tmp_path) as room:
        await room.publish(1)

        async def dies(_):
            await asyncio.sleep(0.2)
            raise ServiceError("the process that sends weights died")

        room.senders[0].send = dies
        began = time.monotonic()
        with pytest.raises(ServiceError, match="the process that sends weights died"):
            await room.publish(2)
        assert time.monotonic() - began < SOON_S
        await room.publish(3)
        room.assert_held(3)


async def test_a_run_that_is_stopped_in_the_middle_lets_engines_go(tmp_path):
    async with room_of(tmp_path) as room:
        await room.publish(1)

        async def hangs(_):
            await asyncio.Event().wait()

        room.senders[0].send = hangs
        publishing = asyncio.create_task(room.publish(2))
        while SEND not in room.of("engine-2")[len([JOIN, *UPDATE]) :]:  # noqa: ASYNC110 - the journal tells nobody
            await asyncio.sleep(0.01)
        began = time.monotonic()
        publishing.cancel()
        await asyncio.wait({publishing})
        assert publishing.cancelled()
        assert time.monotonic() - began < SOON_S
        assert LEAVE in room.of("engine-1")
        assert LEAVE in room.of("engine-2")


def test_portions_hold_each_tensor_once_within_a_size_and_of_one_type(tmp_path):
    safetensors.torch.save_file(weights(0) | {"bb": torch.zeros(100)}, tmp_path / "model.safetensors")

    def names(most):
        return [[stored.name for stored in portion] for portion in portions(tmp_path, most=most)]

    assert names(100) == [["a", "b"], ["bb"], ["c"]]
    assert names(1000) == [["a", "b", "bb"], ["c"]]
    [[stored, *_], *_] = portions(tmp_path)
    assert (stored.dtype, stored.shape, stored.bytes) == ("float32", (3, 5), 60)


def test_what_is_no_weight_is_not_sent(tmp_path):
    with pytest.raises(ServiceError, match="no tensors in it"):
        portions(tmp_path)
    safetensors.torch.save_file({"steps": torch.zeros(2, dtype=torch.int64)}, tmp_path / "model.safetensors")
    with pytest.raises(ServiceError, match="steps is of type I64; weights are F64, F32, BF16, F16"):
        portions(tmp_path)


@pytest.mark.parametrize(
    ("engines", "address"),
    [
        (["http://127.0.0.1:1", "http://localhost:2"], "127.0.0.1"),
        # A machine's way to itself, by an address of the loopback network that is no name of it.
        (["http://localhost:2", "http://127.0.0.2:1"], "127.0.0.1"),
    ],
)
def test_engines_find_the_trainer_at_the_address_that_leads_to_them(engines, address):
    assert reachable_by(engines) == address
