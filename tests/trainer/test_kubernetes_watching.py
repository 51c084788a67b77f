"""The pods of a run as the Kubernetes runner sees them: one watch, and nothing missed whatever becomes of it."""

import asyncio

import pytest
from kubernetes_agents import agent_in, all_seen, standing, until
from kubernetes_world import now
from runner_world import job

pytestmark = pytest.mark.slow


@pytest.mark.soak
async def test_attempts_share_one_watch(cluster, tmp_path):
    ended = {"exitCode": 0, "reason": "Completed", "startedAt": now(), "finishedAt": now()}
    cluster.kubelet = standing("Succeeded", terminated=ended)
    async with agent_in(tmp_path, "true", answer="message") as started:
        attempts = [started.run(job(f"a-{n}", version="7"), 60) for n in range(200)]
        ends = await asyncio.gather(*attempts)
    assert {(end.exit_code, end.problem, end.answer) for end in ends} == {(0, "", None)}
    assert cluster.asked["watch", "", "pods"] == 1


@pytest.mark.parametrize("also", ["forgotten", "remembered"])
async def test_a_watch_that_breaks_off_goes_on_and_misses_nothing(cluster, tmp_path, also):
    cluster.kubelet = standing("Running", running={"startedAt": now()})
    async with agent_in(tmp_path, "true") as started:
        attempts = [asyncio.create_task(started.run(job(name, version="7"), 20)) for name in "ab"]
        await until(lambda: len(cluster.objects["pods"]) == 2 and all_seen(started))
        listed = cluster.asked["list", "", "pods"]
        cluster.out_of_reach = True
        cluster.hang_up()
        first, second = cluster.objects["pods"].values()
        cluster.stand(first, "Failed", terminated={"exitCode": 7, "startedAt": now(), "finishedAt": now()})
        cluster.objects["pods"].pop(second["metadata"]["name"])
        cluster.note("DELETED", "pods", second)
        if also == "forgotten":
            cluster.forget()
        cluster.out_of_reach = False
        ends = await asyncio.gather(*attempts)
    assert {(end.exit_code, end.problem) for end in ends} == {(7, ""), (0, "its pod was deleted")}
    assert cluster.asked["watch", "", "pods"] >= 2
    # One is asked for by the attempt whose pod is gone: its Job may have another.
    assert (cluster.asked["list", "", "pods"] > listed + 1) == (also == "forgotten")


async def test_a_pod_that_was_made_while_pods_were_listed_is_seen(cluster, tmp_path):
    ended = {"exitCode": 7, "startedAt": now(), "finishedAt": now()}
    cluster.kubelet = standing("Failed", terminated=ended)
    asking, made = asyncio.Event(), asyncio.Event()

    async def hold_the_list(verb, resource, request):
        if (verb, resource) == ("list", "pods") and not made.is_set():
            asking.set()
            await made.wait()

    cluster.faults.append(hold_the_list)
    async with agent_in(tmp_path, "true") as started:
        await asking.wait()
        attempt = asyncio.create_task(started.run(job(version="7"), 20))
        await until(lambda: cluster.objects["pods"])
        made.set()
        async with asyncio.timeout(10):  # and not once it asks for itself
            assert (await attempt).exit_code == 7


async def test_bookmarks_keep_an_idle_watch_from_being_forgotten(cluster, tmp_path):
    cluster.kubelet = standing("Running", running={"startedAt": now()})
    async with agent_in(tmp_path, "true") as started:
        attempt = asyncio.create_task(started.run(job(version="7"), 20))
        await until(lambda: cluster.objects["pods"])
        await asyncio.sleep(0.1)
        listed = cluster.asked["list", "", "pods"]
        cluster.bookmark()
        # Both ends of the watch are in this event loop.
        await asyncio.sleep(0.1)
        cluster.forget()
        cluster.hang_up()
        [pod] = cluster.objects["pods"].values()
        cluster.stand(pod, "Failed", terminated={"exitCode": 7, "startedAt": now(), "finishedAt": now()})
        assert (await attempt).exit_code == 7
    assert cluster.asked["list", "", "pods"] == listed
