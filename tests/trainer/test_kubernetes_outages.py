"""The Kubernetes runner and an API server that is down, fails, or loses its answers."""

import asyncio
from collections import Counter

import pytest
from aiohttp import web
from kubernetes_agents import agent_in, kinds, python, standing, until
from kubernetes_world import now, refused
from runner_world import job

pytestmark = pytest.mark.slow


async def test_a_server_that_is_down_is_waited_for_and_said(cluster, tmp_path, monkeypatch):
    monkeypatch.setattr("nexrl_trainer.rollouts.runners.kubernetes.patience.SAY_AFTER_S", 0.0)
    troubles = Counter({429: 4, 503: 4, 500: 4})

    async def fault(verb, resource, request):
        if not troubles.total():
            return None
        code = next(troubles.elements())
        troubles[code] -= 1
        return web.Response(
            status=code, text="Too many requests, please try again later.", headers={"Retry-After": "0"}
        )

    told = []
    async with agent_in(tmp_path, *python("print('done')"), say=told.append) as started:
        cluster.faults.append(fault)
        assert (await started.run(job(version="7"), 20)).answer == "done"
    assert told[0] == (
        "the cluster's API server cannot be asked (429 Too many requests, please try again later.); agents wait for it"
    )
    assert told[-1] == "the cluster's API server answers again"
    assert kinds(cluster) == {}


async def test_an_agent_that_ended_in_time_while_the_server_was_down_has_not_timed_out(cluster, tmp_path):
    cluster.kubelet = standing("Running", running={"startedAt": now()})
    async with agent_in(tmp_path, "true") as started:
        attempt = asyncio.create_task(started.run(job(version="7"), 0.2))
        await until(lambda: cluster.objects["pods"])
        await asyncio.sleep(0.05)
        cluster.out_of_reach = True
        cluster.hang_up()
        [pod] = cluster.objects["pods"].values()
        cluster.stand(pod, "Succeeded", terminated={"exitCode": 0, "startedAt": now(), "finishedAt": now()})
        await asyncio.sleep(0.3)
        assert not attempt.done()
        cluster.out_of_reach = False
        assert not (await attempt).timed_out


@pytest.mark.parametrize("resource", ["jobs", "secrets"])
async def test_an_answer_that_gets_lost_makes_nothing_twice(cluster, tmp_path, resource):
    lost = []

    async def fault(verb, asked, request):
        if (verb, asked) == ("create", resource) and not lost:
            lost.append(await cluster._create(request))
            return web.Response(status=502)
        return None

    cluster.faults.append(fault)
    async with agent_in(tmp_path, *python("print('once')")) as started:
        assert (await started.run(job(version="7"), 20)).answer == "once"
    assert lost
    assert kinds(cluster) == {}


async def test_a_job_that_the_cluster_refuses_cannot_be_started(cluster, tmp_path):
    async def fault(verb, resource, request):
        return refused(422, "Invalid", "Job is invalid: no") if (verb, resource) == ("create", "jobs") else None

    async with agent_in(tmp_path, "true") as started:
        cluster.faults.append(fault)
        with pytest.raises(ValueError, match="Job is invalid: no"):
            await started.run(job(version="7"), 20)


@pytest.mark.parametrize("what", [("create", "jobs"), ("create", "secrets"), ("patch", "jobs")], ids=" ".join)
async def test_what_the_cluster_never_manages_to_make_cannot_be_started(cluster, tmp_path, what):
    async def fault(verb, resource, request):
        failing = refused(500, "InternalError", "failed calling webhook: no", **{"Retry-After": "0"})
        return failing if (verb, resource) == what else None

    cluster.faults.append(fault)
    async with agent_in(tmp_path, "true", kubernetes={"start_s": 0.1}) as started:
        with pytest.raises(ValueError, match="failed calling webhook: no"):
            await started.run(job(version="7"), 20)
    assert kinds(cluster) == {}
