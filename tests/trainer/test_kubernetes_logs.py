"""What an agent in a cluster printed, as the Kubernetes runner reads it."""

import pytest
from kubernetes_agents import agent_in
from kubernetes_world import now, refused
from runner_world import job

from nexrl_trainer.rollouts.runners.runner import printed_answer

pytestmark = pytest.mark.slow


async def test_of_a_long_log_the_newest_megabyte_is_kept(cluster, tmp_path):
    async def kubelet(cluster, pod):
        cluster.logs[pod["metadata"]["name"]] = b"x" * 3_000_000 + "\u2028 \x0c end".encode()
        cluster.stand(pod, "Succeeded", terminated={"exitCode": 0, "startedAt": now(), "finishedAt": now()})

    cluster.kubelet = kubelet
    async with agent_in(tmp_path, "true") as started:
        ended = await started.run(job(version="7"), 20)
    assert len(ended.stdout.encode()) == 1 << 20
    assert ended.stdout.endswith("x\u2028 \x0c end")


def test_an_answer_may_be_the_last_line():
    printed = "Thinking ...\n42\n\n"
    assert [printed_answer(where, printed) for where in ("stdout", "last_line", "message")] == [
        "Thinking ...\n42",
        "42",
        None,
    ]


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
