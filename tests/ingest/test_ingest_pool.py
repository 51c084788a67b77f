"""Leases: every finished group goes to one trainer at a time, and to none again once it is acked."""

import asyncio
import time

import pytest
from aiohttp import web
from ingest_world import ADMIN_KEY, call, finish, group

from nexrl.errors import ServiceError
from nexrl.records import Attempt, Float32s, Outcome, Reward
from nexrl_ingest.app import make_app
from nexrl_ingest.client import IngestClient
from nexrl_ingest.groups import ledger, pool
from nexrl_ingest.groups.runs import state_of
from nexrl_ingest.wire import LeaseRequest

ON_BOTH_STORES = True


async def state(client) -> str:
    [found] = await client.groups("run-1")
    return found.state


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({"mode": "train", "final": 1, "done": False, "leased": False}, "open"),
        ({"mode": "train", "final": 2, "done": False, "leased": False}, "ready"),
        ({"mode": "train", "final": 2, "done": False, "leased": True}, "leased"),
        ({"mode": "train", "final": 2, "done": True, "leased": False}, "done"),
        ({"mode": "eval", "final": 1, "done": False, "leased": False}, "open"),
        ({"mode": "eval", "final": 2, "done": False, "leased": False}, "done"),
    ],
)
def test_where_a_group_stands(facts, expected):
    assert state_of(size=2, **facts) == expected


async def test_a_leased_group_carries_every_rollout_bit_for_bit(ingest, client):
    sent = call([1, 2], [3, 4], session="group-1-1", logprobs=Float32s([-0.1, -1e-9]))
    await ingest.send(sent)
    await finish(client, group(), rewards=[Reward(name="correct", value=1.0, at_ns=5)])
    [leased] = await client.lease("run-1")
    assert leased.group.group == group()
    empty, full = leased.group.trajectories
    assert (empty.session, empty.sequences, full.rollout) == ("group-1-0", [], 1)
    assert full.rewards == [Reward(name="correct", value=1.0, at_ns=5)]
    assert full.sequences[0].logprobs[2:] == sent.logprobs
    assert list(full.sequences[0].ids) == [1, 2, 3, 4]


async def test_an_acked_group_is_done_and_acking_it_again_is_fine(client):
    await finish(client, group())
    assert await state(client) == "ready"
    [leased] = await client.lease("run-1")
    assert await state(client) == "leased"
    assert await client.lease("run-1") == []
    await client.ack([leased.lease])
    await client.ack([leased.lease])
    assert await state(client) == "done"
    assert await client.lease("run-1", steal=True) == []


async def test_a_group_given_back_is_ready_at_once(client):
    await finish(client, group())
    [first] = await client.lease("run-1")
    await client.nack([first.lease])
    await client.nack([first.lease])
    [second] = await client.lease("run-1")
    assert second.group == first.group
    with pytest.raises(ServiceError, match=f"{first.lease}.*is nacked"):
        await client.ack([first.lease])


async def test_a_lease_that_ran_out_cannot_be_acked_and_its_group_goes_to_whoever_waits(client):
    await finish(client, group())
    [first] = await client.lease("run-1", lease_s=0.05)
    [second] = await client.lease("run-1", wait_s=5)
    with pytest.raises(ServiceError, match=f"{first.lease}.*is expired"):
        await client.ack([second.lease, first.lease])
    assert await state(client) == "leased"
    await client.ack([second.lease])


async def test_a_lease_that_ran_out_is_refused_even_where_nobody_took_the_group(client):
    await finish(client, group())
    [first] = await client.lease("run-1", lease_s=0.01)
    await asyncio.sleep(0.05)
    assert await state(client) == "ready"
    with pytest.raises(ServiceError, match="is expired"):
        await client.ack([first.lease])


async def test_a_restarted_trainer_takes_over_its_runs_leases_and_no_others(client):
    await finish(client, group())
    await finish(client, group("group-2", run="run-2"))
    [first] = await client.lease("run-1")
    [other] = await client.lease("run-2")
    [again] = await client.lease("run-1", steal=True)
    assert again.group == first.group
    with pytest.raises(ServiceError, match="is expired"):
        await client.ack([first.lease])
    await client.ack([other.lease])


async def test_a_waiting_takeover_takes_only_what_was_held_when_it_came(store, client):
    def finished_and_leased(connection) -> None:
        ledger.put_group(connection, group(size=1))
        ledger.put_attempt(connection, Attempt(id="a", group="group-1", rollout=0))
        ledger.put_outcome(connection, "a", Outcome(status="completed"), 1)
        pool.lease(connection, LeaseRequest(run="run-1"), time.time_ns())

    waiting = asyncio.create_task(client.lease("run-1", wait_s=0.7, steal=True))
    await asyncio.sleep(0.1)
    await store.write(finished_and_leased)
    assert await waiting == []
    assert await state(client) == "leased"


async def test_groups_come_in_the_order_they_became_ready_and_eval_groups_never(client):
    for id_ in ("late", "early", "eval"):
        await client.put_group(group(id_, size=1, mode="eval" if id_ == "eval" else "train"))
    for id_ in ("eval", "early", "late"):
        await finish(client, group(id_, size=1, mode="eval" if id_ == "eval" else "train"))
    [first] = await client.lease("run-1", limit=1)
    [second] = await client.lease("run-1", limit=5)
    assert (first.group.group.id, second.group.group.id) == ("early", "late")


async def test_a_lease_waits_for_the_first_ready_group(client):
    waiting = asyncio.create_task(client.lease("run-1", wait_s=10))
    await asyncio.sleep(0.1)
    assert not waiting.done()
    started = time.monotonic()
    await finish(client, group())
    [leased] = await waiting
    assert (leased.group.group.id, time.monotonic() - started < 2) == ("group-1", True)


async def test_two_trainers_never_hold_the_same_group(client):
    for index in range(6):
        await finish(client, group(f"group-{index}", size=1))
    taken = await asyncio.gather(*(client.lease("run-1", limit=1) for _ in range(8)))
    ids = [item.group.group.id for leased in taken for item in leased]
    assert sorted(ids) == [f"group-{index}" for index in range(6)]


async def test_leases_survive_a_restart(ingest, client, open_store):
    await finish(client, group())
    await finish(client, group("group-2"))
    [first] = await client.lease("run-1")
    store = open_store()
    runner = web.AppRunner(make_app(store=store, admin_key=ADMIN_KEY), shutdown_timeout=1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    restarted = IngestClient(f"http://127.0.0.1:{runner.addresses[0][1]}", ADMIN_KEY, ingest.http)
    [second] = await restarted.lease("run-1", limit=2)
    assert second.group.group.id == "group-2"
    await restarted.ack([first.lease])
    assert [item.state for item in await restarted.groups("run-1")] == ["done", "leased"]
    await runner.cleanup()
    store.close()


async def test_unknown_leases_and_ended_ones_are_named(ingest, client):
    status, reply = await ingest.ask("POST", "/api/leases/ack", json={"leases": ["nothing"]})
    assert (status, "'nothing'" in reply["error"]["message"]) == (404, True)
    await finish(client, group())
    [leased] = await client.lease("run-1")
    await client.ack([leased.lease])
    status, reply = await ingest.ask("POST", "/api/leases/nack", json={"leases": [leased.lease]})
    assert (status, leased.lease in reply["error"]["message"]) == (409, True)


async def test_a_waiting_lease_ends_when_the_server_stops(store, ingest):
    runner = web.AppRunner(make_app(store=store, admin_key=ADMIN_KEY), shutdown_timeout=30)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    client = IngestClient(f"http://127.0.0.1:{runner.addresses[0][1]}", ADMIN_KEY, ingest.http)
    waiting = asyncio.create_task(client.lease("run-1", wait_s=60))
    await asyncio.sleep(0.1)
    started = time.monotonic()
    await runner.cleanup()
    assert await waiting == []
    assert time.monotonic() - started < 5


async def test_nothing_is_leased_to_a_client_that_hung_up(client):
    await client.put_group(group(size=1))
    waiting = asyncio.create_task(client.lease("run-1", wait_s=10))
    await asyncio.sleep(0.1)
    waiting.cancel()
    await asyncio.sleep(0.1)
    await finish(client, group(size=1))
    await asyncio.sleep(0.4)
    assert await state(client) == "ready"
