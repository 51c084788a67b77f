"""Attempts of the Kubernetes runner that the cluster, a queue or somebody ended: what they cost, and what is said."""

import asyncio

import pytest
from kubernetes_agents import agent_in, all_seen, kinds, standing, until
from kubernetes_world import now
from runner_world import job

from nexrl_trainer.rollouts.runners.runner import DisturbedError

pytestmark = pytest.mark.slow


async def test_a_pod_that_the_cluster_takes_away_costs_no_try(cluster, tmp_path):
    taken = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "for another"}
    killed = {"exitCode": 143, "reason": "Error", "startedAt": now(), "finishedAt": now()}
    cluster.kubelet = standing("Failed", status={"conditions": [taken]}, terminated=killed)
    async with agent_in(tmp_path, "true") as started:
        with pytest.raises(DisturbedError, match="PreemptionByScheduler: for another"):
            await started.run(job(version="7"), 20)
    assert kinds(cluster) == {}


@pytest.mark.parametrize("code", [None, 0, 143], ids=lambda code: f"exit code {code}")
async def test_a_pod_of_a_job_that_its_queue_suspends_again_costs_no_try(cluster, tmp_path, code):
    cluster.kubelet = standing("Running", running={"startedAt": now()})
    async with agent_in(tmp_path, "true", spec={"suspend": True}) as started:
        attempt = asyncio.create_task(started.run(job(version="7"), 20))
        await until(lambda: cluster.objects["jobs"])
        [[name, made]] = cluster.objects["jobs"].items()
        cluster.admit(name)
        await until(lambda: cluster.objects["pods"] and all_seen(started))
        [[pod_name, pod]] = cluster.objects["pods"].items()
        made["spec"]["suspend"] = True
        if code is not None:
            pod["metadata"]["deletionTimestamp"] = now()
            cluster.stand(pod, "Failed", terminated={"exitCode": code, "startedAt": now(), "finishedAt": now()})
        cluster.remove("pods", pod_name)
        with pytest.raises(DisturbedError, match="its Job was suspended"):
            await attempt


@pytest.mark.parametrize("also", ["forgotten", "remembered"])
async def test_a_second_pod_of_a_job_is_not_the_same_attempt(cluster, tmp_path, also):
    cluster.kubelet = standing("Running", running={"startedAt": now()})
    async with agent_in(tmp_path, "true", spec={"suspend": True}) as started:
        attempt = asyncio.create_task(started.run(job(version="7"), 20))
        await until(lambda: cluster.objects["jobs"])
        [name] = cluster.objects["jobs"]
        cluster.admit(name)
        await until(lambda: cluster.objects["pods"] and all_seen(started))
        cluster.out_of_reach = True
        cluster.hang_up()
        [pod] = cluster.objects["pods"]
        cluster.remove("pods", pod)
        cluster.admit(name)
        if also == "forgotten":
            cluster.forget()
        cluster.out_of_reach = False
        with pytest.raises(DisturbedError, match="its Job was suspended, and runs again in another pod"):
            await attempt
    assert kinds(cluster) == {}


async def test_a_second_pod_that_is_made_while_the_end_of_the_first_is_looked_into_says_why(cluster, tmp_path):
    cluster.kubelet = standing("Running", running={"startedAt": now()})

    async def admitted(verb, resource, request):
        if (verb, resource) == ("get", "jobs") and not cluster.objects["pods"]:
            cluster.admit(request.match_info["name"])

    cluster.faults.append(admitted)
    async with agent_in(tmp_path, "true") as started:
        attempt = asyncio.create_task(started.run(job(version="7"), 20))
        await until(lambda: cluster.objects["pods"] and all_seen(started))
        [pod] = cluster.objects["pods"]
        cluster.remove("pods", pod)
        with pytest.raises(DisturbedError, match="runs again in another pod"):
            await attempt


async def test_a_pod_that_is_taken_away_before_it_starts_costs_no_try(cluster, tmp_path):
    taken = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "for another"}
    cluster.kubelet = standing(status={"containerStatuses": [], "conditions": [taken]})
    async with agent_in(tmp_path, "true") as started:
        attempt = asyncio.create_task(started.run(job(version="7"), 20))
        await until(lambda: cluster.objects["pods"] and all_seen(started))
        [name] = cluster.objects["pods"]
        await until(lambda: cluster.objects["pods"][name]["status"].get("conditions"))
        cluster.remove("pods", name)
        with pytest.raises(DisturbedError, match="PreemptionByScheduler: for another"):
            await attempt


async def test_a_job_past_its_deadline_is_a_time_out_though_its_pod_was_deleted(cluster, tmp_path):
    cluster.kubelet = standing("Running", running={"startedAt": now()})
    async with agent_in(tmp_path, "true") as started:
        attempt = asyncio.create_task(started.run(job(version="7"), 20))
        await until(lambda: cluster.objects["pods"])
        [name] = cluster.objects["pods"]
        [made] = cluster.objects["jobs"].values()
        past = {"type": "FailureTarget", "status": "True", "reason": "DeadlineExceeded"}
        made["status"] = {"conditions": [{**past, "message": "Job was active longer than specified deadline"}]}
        cluster.remove("pods", name)
        assert (await attempt).timed_out
