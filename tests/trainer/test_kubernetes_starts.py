"""What the Kubernetes runner finds out before anything runs, and what it deletes that an earlier start left."""

import asyncio

import pytest
from kubernetes_agents import agent_in, kept_waiting, kinds, until
from kubernetes_world import cluster_at
from runner_world import job

from nexrl.errors import ConfigError
from nexrl_trainer.rollouts.runners.kubernetes.permissions import ALLOWED

pytestmark = pytest.mark.slow


async def test_what_is_asked_of_the_cluster_is_what_the_account_must_be_allowed(cluster, tmp_path):
    async with agent_in(tmp_path, "true", kubernetes={"start_s": 0.1}) as started:
        await started.run(job(version="7"), 20)
        cluster.makes_pods = False
        await started.run(job("other", version="7"), 20)
    asked = {(verb, group, resource) for verb, group, resource in cluster.asked if group != "authorization.k8s.io"}
    assert asked == {(verb, *about) for about, verbs in ALLOWED.items() for verb in verbs}


@pytest.mark.parametrize("forbidden", [("create", "secrets"), ("get", "pods/log")])
async def test_what_the_account_may_not_do_is_said_before_anything_starts(cluster, tmp_path, forbidden):
    cluster.forbidden.add(forbidden)
    with pytest.raises(ConfigError, match=f"may not {' '.join(forbidden)} in namespace agents; give .* Role"):
        async with agent_in(tmp_path, "true"):
            raise AssertionError("it did not start")


async def test_a_cluster_that_is_not_there_or_not_named_is_an_error_with_a_remedy(tmp_path, monkeypatch):
    monkeypatch.setattr("nexrl_trainer.rollouts.runners.kubernetes.permissions.START_S", 0.1)
    async with cluster_at(tmp_path) as gone:
        monkeypatch.setenv("KUBECONFIG", str(gone.kubeconfig))
    for kubernetes, said in [({}, "the cluster at http://127.*ConnectError"), ({"context": "x"}, "context=x.*'x' not")]:
        with pytest.raises(ConfigError, match=said):
            async with agent_in(tmp_path, "true", kubernetes=kubernetes):
                raise AssertionError("it did not start")


async def test_what_a_killed_trainer_left_is_deleted_at_the_next_start_and_nothing_else(cluster, tmp_path):
    cluster.kubelet = kept_waiting
    other = tmp_path / "another"
    other.mkdir()
    async with agent_in(other, "true") as another:
        theirs = asyncio.create_task(another.run(job("theirs", version="7"), 20))
        started = await agent_in(tmp_path, "true").__aenter__()
        attempts = [asyncio.create_task(started.run(job(f"a-{n}", version="7"), 20)) for n in range(3)]
        await until(lambda: len(cluster.objects["pods"]) == 4)
        told = []
        async with agent_in(tmp_path, "true", say=told.append):
            assert [
                thing["metadata"]["annotations"]["nexrl.dev/attempt"] for thing in cluster.objects["jobs"].values()
            ] == ["theirs"]
            assert kinds(cluster) == {"jobs": 1, "pods": 1, "secrets": 1}
        assert told == ["3 Kubernetes Jobs that an earlier start left were deleted"]
        assert [(await attempt).problem for attempt in attempts] == ["its pod was deleted"] * 3
        theirs.cancel()
        await asyncio.gather(theirs, return_exceptions=True)
        await started.__aexit__(None, None, None)
    assert kinds(cluster) == {}
