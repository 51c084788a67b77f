"""Engines that share the trainer's GPU give their memory away while it trains, and get it back with new weights."""

import pytest
from scripted_fleet import fleet_of
from test_fleet import Policy, of

from nexrl.errors import ServiceError
from nexrl_trainer.engines.generations import sglang
from nexrl_trainer.engines.publisher import Publisher
from nexrl_trainer.recipe.engine import Engine

CONFIG = Engine(kind="sglang", colocated=True)
AWAY, BACK = "release_memory_occupation", "resume_memory_occupation"
LOADED = ["pause_generation", "update_weights_from_disk", "continue_generation"]
WHOLE = [AWAY, f"{BACK} weights cuda_graph", *LOADED, f"{BACK} kv_cache"]


async def test_nothing_is_sampled_from_the_release_until_weights_and_cache_are_back(tmp_path):
    async with fleet_of(tmp_path, engines=1, generation=sglang("0.5.23")) as (fleet, engines, _, journal, _said):
        publisher = Publisher(fleet, tmp_path / "w", CONFIG)
        for version in (1, 2):
            journal.clear()
            await publisher.give_way()
            assert publisher.gave_way
            assert journal == ["proxy hold 5", f"engine-1 {AWAY}"]
            await publisher.publish(Policy(), version)
            assert journal[0].startswith("proxy hold")
            assert [line.split(" ", 1)[1] for line in journal[1:-1]] == WHOLE
            assert journal[-1] == f"proxy release {version}"
            assert not publisher.gave_way
            assert engines[0].version == str(version)


async def test_engines_with_a_gpu_of_their_own_never_give_way(tmp_path):
    async with fleet_of(tmp_path) as (fleet, _, _, journal, _said):
        publisher = Publisher(fleet, tmp_path / "w", Engine())
        await publisher.give_way()
        assert not publisher.gave_way
        assert journal == []


async def test_what_will_not_end_keeps_the_memory_and_its_requests_go_on(tmp_path):
    async with fleet_of(tmp_path, generation=sglang("0.5.23")) as (fleet, _, proxy, journal, _said):
        proxy.running = 1
        publisher = Publisher(fleet, tmp_path / "w", CONFIG)
        with pytest.raises(ServiceError, match="1 requests still run after 5 s"):
            await publisher.give_way()
        assert journal == ["proxy hold 5", "proxy release"]
        assert not publisher.gave_way


@pytest.mark.parametrize("noticed", [True, False])
async def test_an_engine_that_died_meanwhile_has_its_memory_already(tmp_path, noticed):
    async with fleet_of(tmp_path, generation=sglang("0.5.23")) as (fleet, engines, _, journal, _said):
        publisher = Publisher(fleet, tmp_path / "w", CONFIG)
        await publisher.give_way()
        await engines[1].close()
        if noticed:
            assert await fleet.failed() is None
        await publisher.publish(Policy(), 1)
        assert of(journal, "engine-1") == WHOLE
        assert of(journal, "engine-2") == [AWAY, "starts with 0", *LOADED]
        assert [engine.version for engine in engines] == ["1", "1"]


async def test_memory_cannot_be_given_away_twice(tmp_path):
    async with fleet_of(tmp_path, generation=sglang("0.5.23")) as (fleet, *_):
        publisher = Publisher(fleet, tmp_path / "w", CONFIG)
        await publisher.give_way()
        with pytest.raises(AssertionError, match="engines are released, not serving"):
            await publisher.give_way()
        await publisher.publish(Policy(), 1)
