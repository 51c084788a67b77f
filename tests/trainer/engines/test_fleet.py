"""Several engines published to as one, and brought back when they die."""

import asyncio

import pytest
from aiohttp import ClientSession, web
from scripted_fleet import ScriptedServer, fleet_of

from nexrl.errors import ConfigError, ServiceError
from nexrl_trainer.engines.client import UnreachableError
from nexrl_trainer.engines.fleet import RESTARTS, Fleet
from nexrl_trainer.engines.generations import sglang
from nexrl_trainer.engines.publisher import Publisher
from nexrl_trainer.recipe.engine import Engine

PAUSED = ["pause_generation", "update_weights_from_disk", "continue_generation"]


class Policy:
    async def publish_weights(self, folder):
        (folder / "model.safetensors").touch()


def of(journal, name):
    return [line.removeprefix(f"{name} ") for line in journal if line.startswith(f"{name} ")]


async def test_every_engine_gets_the_weights_and_only_the_newest_are_kept(tmp_path):
    async with fleet_of(tmp_path) as (fleet, engines, _, journal, _said):
        publisher = Publisher(fleet, tmp_path / "weights", Engine())
        await publisher.publish(Policy(), 1)
        await publisher.publish(Policy(), 2)
        assert [engine.version for engine in engines] == ["2", "2"]
        assert [item.name for item in (tmp_path / "weights").iterdir()] == ["v000002"]
        assert (fleet.weights.folder.name, fleet.weights.version) == ("v000002", 2)
        assert of(journal, "proxy") == []


async def test_in_flight_each_engine_pauses_loads_and_goes_on(tmp_path):
    async with fleet_of(tmp_path, generation=sglang("0.5.23")) as (fleet, _, _, journal, _said):
        await Publisher(fleet, tmp_path / "weights", Engine()).publish(Policy(), 1)
        assert of(journal, "engine-1") == of(journal, "engine-2") == PAUSED


async def test_drained_new_requests_wait_until_every_engine_has_the_weights(tmp_path):
    async with fleet_of(tmp_path, generation=sglang("0.5.13")) as (fleet, _, _, journal, _said):
        await Publisher(fleet, tmp_path / "weights", Engine(updates="drained")).publish(Policy(), 7)
        assert journal[0] == "proxy hold 5"
        assert sorted(journal[1:3]) == ["engine-1 update_weights_from_disk", "engine-2 update_weights_from_disk"]
        assert journal[3:] == ["proxy release 7"]


async def test_what_will_not_end_is_an_error_that_opens_the_door_again(tmp_path):
    async with fleet_of(tmp_path) as (fleet, engines, proxy, journal, _said):
        proxy.running = 3
        with pytest.raises(ServiceError, match=r"drained: 3 requests still run after 5 s; .*in_flight"):
            await Publisher(fleet, tmp_path / "weights", Engine(updates="drained")).publish(Policy(), 1)
        assert journal == ["proxy hold 5", "proxy release"]
        assert [engine.version for engine in engines] == ["0", "0"]


@pytest.mark.parametrize("refused", PAUSED[:2])
async def test_an_engine_that_refuses_goes_on_and_is_named(tmp_path, refused):
    async with fleet_of(tmp_path, generation=sglang("0.5.23")) as (fleet, engines, _, journal, _said):
        engines[1].refuses.add(refused)
        with pytest.raises(ServiceError, match=rf"{engines[1].url} refused .*: no {refused} today"):
            await Publisher(fleet, tmp_path / "weights", Engine()).publish(Policy(), 1)
        assert of(journal, "engine-2")[-1] == "continue_generation"


async def test_an_engine_that_says_yes_and_keeps_its_weights_is_found_out(tmp_path):
    async with fleet_of(tmp_path) as (fleet, engines, _, _, _said):
        engines[0].forgets = True
        with pytest.raises(ServiceError, match="reports weight version '0' after publishing 1"):
            await Publisher(fleet, tmp_path / "weights", Engine()).publish(Policy(), 1)


async def test_an_engine_that_ended_starts_again_with_the_newest_weights_while_others_serve(tmp_path):
    async with fleet_of(tmp_path) as (fleet, engines, _, journal, said):
        await Publisher(fleet, tmp_path / "weights", Engine()).publish(Policy(), 4)
        await engines[0].close()
        assert await fleet.failed() is None
        assert await fleet.members[0].client.version() == "4"
        assert journal[-1] == "engine-1 starts with 4"
        assert of(journal, "proxy") == []
        assert said == ["engine-1 ended (exit code -9): started again with weights 4, restart 1 of 3"]


async def test_while_no_engine_is_left_requests_wait(tmp_path):
    async with fleet_of(tmp_path) as (fleet, engines, _, journal, _said):
        for engine in engines:
            await engine.close()
        assert await fleet.failed() is None
        assert of(journal, "proxy") == ["hold 0", "release"]
        assert [await member.client.version() for member in fleet.members] == ["0", "0"]


@pytest.mark.parametrize("route", PAUSED)
async def test_an_engine_that_dies_in_the_middle_of_an_update_gets_it_after_its_restart(tmp_path, route):
    async with fleet_of(tmp_path, generation=sglang("0.5.23")) as (fleet, engines, _, journal, _said):
        engines[0].dies_at.add(route)
        await Publisher(fleet, tmp_path / "weights", Engine()).publish(Policy(), 3)
        assert [engine.version for engine in engines] == ["3", "3"]
        assert of(journal, "engine-1")[-4:] == ["starts with 3", *PAUSED]


async def test_an_engine_that_ends_over_and_over_is_given_up_and_a_publication_starts_the_count_anew(tmp_path):
    async with fleet_of(tmp_path, engines=1) as (fleet, engines, _, _, said):
        publisher = Publisher(fleet, tmp_path / "weights", Engine())
        for version in (1, 2):
            for _ in range(RESTARTS):
                await engines[0].close()
                assert await fleet.failed() is None
            await publisher.publish(Policy(), version)
        assert len(said) == 2 * RESTARTS
        engines[0].restarts_fail = True
        await engines[0].close()
        for _ in range(RESTARTS):
            assert await fleet.failed() is None
        assert "engine-1 ended again, after 3 restarts with the same weights: exit code -9" in str(await fleet.failed())


async def test_an_engine_that_somebody_else_runs_is_theirs_to_bring_back(tmp_path):
    async with fleet_of(tmp_path, started=False) as (fleet, engines, _, _, _said):
        await engines[1].close()
        assert await fleet.failed() is None
        with pytest.raises(UnreachableError, match=f"{engines[1].url}/update_weights_from_disk"):
            await Publisher(fleet, tmp_path / "weights", Engine()).publish(Policy(), 1)


async def test_the_door_stays_shut_as_long_as_one_needs_it_and_tells_the_version_when_it_opens(tmp_path):
    async with fleet_of(tmp_path) as (fleet, _, _, journal, _said):
        inside, leave = asyncio.Event(), asyncio.Event()

        async def restart():
            async with fleet.door.shut():
                inside.set()
                await leave.wait()

        restarting = asyncio.create_task(restart())
        await inside.wait()
        async with fleet.door.drained():
            fleet.door.version = 9
        assert journal == ["proxy hold 0", "proxy hold 5"]
        leave.set()
        await restarting
        assert journal[2:] == ["proxy release 9"]


async def test_an_sglang_that_cannot_be_updated_as_the_recipe_says_is_refused(tmp_path):
    async with fleet_of(tmp_path, engines=1) as (fleet, _, _, journal, said), ClientSession() as http:

        async def info(_):
            return web.json_response(said_to_be)

        said_to_be = {"version": "0.5.13"}
        old = ScriptedServer("old", journal)
        await old.serve([web.get("/server_info", info)])
        joined = {"door": fleet.door, "http": http, "say": said.append}
        config = Engine(kind="sglang", url=old.url)
        with pytest.raises(ConfigError, match=r"set engine\.updates=drained"):
            await Fleet.of({old.url: None}, config, fleet.weights, **joined)
        config = Engine(kind="sglang", url=old.url, updates="drained")
        [member] = (await Fleet.of({old.url: None}, config, fleet.weights, **joined)).members
        assert (member.name, member.generation.name) == (f"engine {old.url}", "SGLang 0.5.13")
        del said_to_be["version"]
        with pytest.raises(ConfigError, match=rf"{old.url} does not say which SGLang it is: correct engine\.url"):
            await Fleet.of({old.url: None}, config, fleet.weights, **joined)
        await old.close()


async def test_a_vllm_that_does_not_say_how_its_logprobs_are_meant_is_refused(tmp_path):
    async with fleet_of(tmp_path, engines=1) as (fleet, _, _, journal, said), ClientSession() as http:

        async def version(_):
            return web.json_response({"version": "0.9"})

        async def info(_):
            return web.json_response({"vllm_config": {"model_config": {}}})

        server = ScriptedServer("vllm", journal)
        await server.serve([web.get("/version", version), web.get("/server_info", info)])
        joined = {"door": fleet.door, "http": http, "say": said.append}
        with pytest.raises(ConfigError, match=r"/server_info of vLLM 0\.9 does not say its logprobs_mode"):
            await Fleet.of(
                {server.url: None}, Engine(kind="vllm", url=server.url, updates="drained"), fleet.weights, **joined
            )
        await server.close()
