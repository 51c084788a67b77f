"""The Kubernetes runner against an API server that speaks as the documentation has it. No real cluster is here."""

import asyncio
import json
import sys
from collections import Counter

import pytest
import yaml
from aiohttp import web
from kubernetes_world import cluster_at, now, refused
from runner_world import ATTEMPT, job, runner

from nexrl.errors import ConfigError
from nexrl_trainer.rollouts.runners.kubernetes.cluster import ALLOWED
from nexrl_trainer.rollouts.runners.runner import DisturbedError

pytestmark = pytest.mark.slow


def template(*command, **container):
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "agent", "labels": {"team": "maze"}},
        "spec": {
            "template": {
                "spec": {
                    "containers": [{"name": "agent", "image": "agent:{version}", "command": [*command], **container}]
                }
            }
        },
    }


@pytest.fixture
async def cluster(tmp_path, monkeypatch):
    async with cluster_at(tmp_path) as made:
        monkeypatch.setenv("KUBECONFIG", str(made.kubeconfig))
        yield made


def agent_in(folder, *command, say=print, kubernetes=None, container=None, spec=None, **agent):
    """The runner of an agent whose template has this command."""
    made = template(*command, **(container or {}))
    made["spec"] |= spec or {}
    (folder / "job.yaml").write_text(yaml.safe_dump(made))
    addresses = {"proxy": "http://trainer:8001", "ingest": "http://trainer:4320"}
    settings = {"template": "job.yaml", "start_s": 30, **addresses, **(kubernetes or {})}
    return runner(folder, say=say, kubernetes=settings, **agent)


def python(code, *arguments):
    return [sys.executable, "-S", "-u", "-c", code, *arguments]


def kinds(cluster):
    return {kind: len(things) for kind, things in cluster.objects.items() if things}


def all_seen(started):
    """Whether the runner knows the pod of every attempt: what is deleted before that was never there."""
    return all(seen.pod for seen in started._watch._seen.values())


async def until(met):
    async with asyncio.timeout(10):
        while not met():  # noqa: ASYNC110 - the cluster's doing, not ours
            await asyncio.sleep(0.01)


def kept_waiting(_, pod):
    """A kubelet that does nothing."""
    return asyncio.sleep(0)


def standing(phase="Pending", *, status=None, **state):
    """A kubelet that puts pods into one state."""

    async def kubelet(cluster, pod):
        cluster.stand(pod, phase, status=status, **state)

    return kubelet


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
    monkeypatch.setattr("nexrl_trainer.rollouts.runners.kubernetes.cluster.START_S", 0.1)
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
        cluster._note("DELETED", "pods", second)
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


async def test_of_a_long_log_the_newest_megabyte_is_kept(cluster, tmp_path):
    async def kubelet(cluster, pod):
        cluster.logs[pod["metadata"]["name"]] = b"x" * 3_000_000 + "\u2028 \x0c end".encode()
        cluster.stand(pod, "Succeeded", terminated={"exitCode": 0, "startedAt": now(), "finishedAt": now()})

    cluster.kubelet = kubelet
    async with agent_in(tmp_path, "true") as started:
        ended = await started.run(job(version="7"), 20)
    assert len(ended.stdout.encode()) == 1 << 20
    assert ended.stdout.endswith("x\u2028 \x0c end")


async def no_route(verb, resource, request):
    return refused(500, "InternalError", "no route to host") if resource == "pods/log" else None


async def no_log(verb, resource, request):
    return refused(404, "NotFound", 'pods "p" not found') if resource == "pods/log" else None


async def no_container(verb, resource, request):
    return refused(400, "BadRequest", "container agent is not available") if resource == "pods/log" else None


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (no_route, "no route to host"),
        (no_log, 'pods "p" not found'),
        (no_container, "container agent is not available"),
    ],
    ids=["unreachable", "pod gone", "container gone"],
)
async def test_an_agent_whose_log_cannot_be_read_has_failed_where_its_answer_is_in_there(
    cluster, tmp_path, monkeypatch, fault, said
):
    monkeypatch.setattr("nexrl_trainer.rollouts.runners.kubernetes.cluster.LOG_S", 0.3)
    cluster.faults.append(fault)
    async with agent_in(tmp_path, "true") as started:
        ended = await started.run(job(version="7"), 20)
    assert (ended.exit_code, ended.problem) == (0, f"its log cannot be read: {said}")
    async with agent_in(tmp_path, "true", answer="message") as started:
        ended = await started.run(job(version="7"), 20)
    assert (ended.exit_code, ended.problem, ended.answer) == (0, "", None)


async def test_an_exit_code_says_more_than_a_log_that_is_gone(cluster, tmp_path):
    cluster.faults.append(no_log)
    async with agent_in(tmp_path, "false") as started:
        ended = await started.run(job(version="7"), 20)
    assert (ended.exit_code, ended.problem) == (1, "")
    assert ended.stderr == 'its log cannot be read: pods "p" not found'


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
