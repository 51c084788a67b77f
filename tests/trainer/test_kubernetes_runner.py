"""The life of an attempt as a Job, in a cluster as the documentation has it. No real one is here."""

import asyncio
import json

import pytest
from kubernetes_agents import agent_in, kept_waiting, kinds, python, standing, until
from kubernetes_world import now
from runner_world import ATTEMPT, job

pytestmark = pytest.mark.slow


AGENT = """
import os, sys
names = ["OPENAI_API_BASE", "OPENAI_MODEL", "ANTHROPIC_BASE_URL", "NEXRL_INGEST_URL", "MORE", "TEAM", "NO_PROXY"]
print({name: os.environ[name] for name in names})
print(os.environ["OPENAI_API_KEY"] == os.environ["ANTHROPIC_API_KEY"], "OMP_NUM_THREADS" in os.environ)
print(open("FILES/tests/a.py").read(), sys.argv[1:], file=sys.stderr)
print(os.environ["OPENAI_API_KEY"])
sys.exit(3)
"""


async def test_an_attempt_is_a_job_with_the_runs_environment_and_the_tasks_fields(cluster, tmp_path):
    code, files = AGENT.replace("FILES", str(tmp_path / "files")), {"tests/{word}.py": "assert {number}"}
    env = [{"name": "TEAM", "value": "of $(OPENAI_MODEL)"}, {"name": "NO_PROXY", "value": ".svc"}]
    asked = agent_in(
        tmp_path,
        *python(code, "{word}", "$(OPENAI_MODEL)"),
        kubernetes={"files_at": str(tmp_path / "files")},
        container={"env": env},
        env={"MORE": "1"},
        files=files,
        answer="last_line",
    )
    async with asked as started:
        running = asyncio.create_task(started.run(job(word="a", number=7, version="7"), 20))
        await until(lambda: cluster.objects["pods"])
        [[name, made]] = cluster.objects["jobs"].items()
        [[_, pod]] = cluster.objects["pods"].items()
        [[secret_name, secret]] = cluster.objects["secrets"].items()
        ended = await running
    assert (ended.exit_code, ended.timed_out, ended.problem, ended.stdout) == (3, False, "", ended.stderr)
    first, second, third, fourth = ended.stdout.splitlines()
    assert eval(first) == {
        "OPENAI_API_BASE": "http://trainer:8001/v1",
        "OPENAI_MODEL": "m",
        "ANTHROPIC_BASE_URL": "http://trainer:8001",
        "NEXRL_INGEST_URL": "http://trainer:4320",
        "MORE": "1",
        "TEAM": "of m",
        "NO_PROXY": ".svc,trainer,localhost",
    }
    assert (second, third) == ("True False", "assert 7 ['a', 'm']")
    assert ended.answer == fourth == f"nxr-{ATTEMPT}.s"
    assert pod["spec"]["containers"][0]["image"] == "agent:7"
    # Who may see Jobs and pods does not see the key, and the Job takes all there is of the attempt with it.
    assert fourth not in json.dumps([made, pod])
    assert secret["metadata"]["ownerReferences"][0]["uid"] == made["metadata"]["uid"]
    assert name == secret_name == made["metadata"]["labels"]["nexrl.dev/attempt"]
    assert made["metadata"]["annotations"]["nexrl.dev/attempt"] == ATTEMPT
    assert kinds(cluster) == {}


OOM = {"exitCode": 137, "reason": "OOMKilled", "startedAt": now(), "finishedAt": now()}


@pytest.mark.parametrize(
    ("kubelet", "problem"),
    [
        (
            standing(waiting={"reason": "ErrImageNeverPull", "message": "not\npresent"}),
            "ErrImageNeverPull: not present",
        ),
        (standing(waiting={"reason": "ImagePullBackOff", "message": "no"}), "ImagePullBackOff: no"),
        (standing(waiting={"reason": "ContainerCreating"}), "not started within 0.1 s: ContainerCreating"),
        (
            standing(
                status={
                    "containerStatuses": [],
                    "conditions": [
                        {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes"}
                    ],
                }
            ),
            "not started within 0.1 s: Unschedulable: 0/3 nodes",
        ),
        (kept_waiting, "not started within 0.1 s: its container has not started"),
        (standing("Failed", terminated=OOM), "OOMKilled (exit code 137)"),
        (
            standing("Failed", status={"containerStatuses": [], "reason": "Evicted", "message": "low on memory"}),
            "Evicted: low on memory",
        ),
    ],
    ids=["never pulled", "no image", "slow", "unschedulable", "silent", "out of memory", "evicted"],
)
async def test_what_does_not_start_or_is_killed_ends_with_the_clusters_reason(cluster, tmp_path, kubelet, problem):
    cluster.kubelet = kubelet
    async with agent_in(tmp_path, "true", kubernetes={"start_s": 0.1}) as started:
        ended = await started.run(job(version="7"), 20)
    assert (ended.problem, ended.timed_out) == (problem, False)
    assert kinds(cluster) == {}


async def test_a_job_whose_pod_nobody_makes_ends_with_the_clusters_warning(cluster, tmp_path):
    cluster.makes_pods = False
    async with agent_in(tmp_path, "true", kubernetes={"start_s": 0.1}) as started:
        attempt = asyncio.create_task(started.run(job(version="7"), 20))
        await until(lambda: cluster.objects["jobs"])
        [name] = cluster.objects["jobs"]
        cluster.objects["events"]["e"] = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": "e", "resourceVersion": "7"},
            "involvedObject": {"kind": "Job", "name": name},
            "type": "Warning",
            "reason": "FailedCreate",
            "message": "exceeded quota: pods=10",
        }
        assert (await attempt).problem == "not started within 0.1 s: exceeded quota: pods=10"


async def test_time_that_a_queue_holds_a_job_does_not_count(cluster, tmp_path):
    asked = agent_in(tmp_path, *python("print('ran')"), spec={"suspend": True}, kubernetes={"start_s": 0.2})
    async with asked as started:
        attempt = asyncio.create_task(started.run(job(version="7"), 20))
        await until(lambda: cluster.asked["get", "batch", "jobs"] >= 2)
        [name] = cluster.objects["jobs"]
        cluster.admit(name)
        assert (await attempt).answer == "ran"
    assert cluster.asked["patch", "batch", "jobs"] == 0


async def test_an_agent_whose_time_is_up_is_deleted_and_its_log_kept(cluster, tmp_path):
    cluster.kubelet = standing("Running", running={"startedAt": now()})
    async with agent_in(tmp_path, "true") as started:
        attempt = asyncio.create_task(started.run(job(version="7"), 0.3))
        await until(lambda: cluster.objects["pods"])
        [name] = cluster.objects["pods"]
        cluster.logs[name] = b"so far\n"
        ended = await attempt
    assert (ended.timed_out, ended.stdout, ended.answer) == (True, "so far\n", "so far")
    assert kinds(cluster) == {}


async def test_cancelling_deletes_the_job_and_so_does_the_end_of_the_run(cluster, tmp_path):
    cluster.kubelet = standing("Running", running={"startedAt": now()})
    async with agent_in(tmp_path, "true") as started:
        first, second = (asyncio.create_task(started.run(job(name, version="7"), 20)) for name in "ab")
        await until(lambda: len(cluster.objects["pods"]) == 2)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await until(lambda: kinds(cluster) == {"jobs": 1, "pods": 1, "secrets": 1})
    assert kinds(cluster) == {}
    second.cancel()
