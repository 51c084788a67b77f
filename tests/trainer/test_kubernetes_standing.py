"""How an attempt stands, from what the cluster says of its pod and its Job."""

import pytest
from lightkube.models.batch_v1 import Job
from lightkube.models.core_v1 import Pod
from msgspec import convert

from nexrl_trainer.rollouts.runners.kubernetes.standing import DELETED, Standing, deleted, explained, standing

WAITING = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes:\n none"}


ENDED = {"startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:00:07Z"}


TAKEN = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI", "message": "drain"}


OVER = {"now": "over"}


RAN = {**OVER, "logged": True, "ran_s": 7.0}


@pytest.mark.parametrize(
    ("status", "state", "expected"),
    [
        ({"phase": "Pending"}, {}, {"now": "waiting", "reason": "its container has not started"}),
        (
            {"phase": "Pending", "conditions": [WAITING]},
            {},
            {"now": "waiting", "reason": "Unschedulable: 0/3 nodes: none"},
        ),
        ({"phase": "Pending"}, {"waiting": {"reason": "ErrImagePull"}}, {"now": "waiting", "reason": "ErrImagePull"}),
        (
            {"phase": "Pending"},
            {"waiting": {"reason": "CreateContainerConfigError", "message": "no x"}},
            {**OVER, "reason": "CreateContainerConfigError: no x"},
        ),
        ({"phase": "Running"}, {"running": {}}, {"now": "running", "logged": True}),
        ({"phase": "Running"}, {"terminated": {"exitCode": 0, **ENDED}}, RAN),
        ({"phase": "Failed"}, {"terminated": {"exitCode": 3, "reason": "Error", **ENDED}}, {**RAN, "exit_code": 3}),
        (
            {"phase": "Failed"},
            {"terminated": {"exitCode": 137, "reason": "OOMKilled", **ENDED}},
            {**RAN, "exit_code": 137, "reason": "OOMKilled (exit code 137)"},
        ),
        (
            {"phase": "Failed"},
            {"terminated": {"exitCode": 128, "reason": "StartError", "message": "no such file"}},
            {**OVER, "exit_code": 128, "reason": "StartError: no such file (exit code 128)"},
        ),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "disk"},
            {"terminated": {"exitCode": 137, **ENDED}},
            {**RAN, "exit_code": 137, "reason": "Evicted: disk"},
        ),
        (
            {"phase": "Failed", "reason": "DeadlineExceeded"},
            {"terminated": {"exitCode": 137, **ENDED}},
            {**RAN, "exit_code": 137, "timed_out": True},
        ),
        (
            {"phase": "Failed", "conditions": [TAKEN]},
            {"terminated": {"exitCode": 143, **ENDED}},
            {**RAN, "exit_code": 143, "disturbed": True, "reason": "EvictionByEvictionAPI: drain"},
        ),
        (
            {"phase": "Succeeded", "conditions": [TAKEN]},
            {"terminated": {"exitCode": 0, **ENDED}},
            {**RAN, "disturbed": True, "reason": "EvictionByEvictionAPI: drain"},
        ),
        (
            {"phase": "Failed", "reason": "Terminated", "message": "node shutdown"},
            {},
            {**OVER, "disturbed": True, "reason": "Terminated: node shutdown"},
        ),
        ({"phase": "Failed", "reason": "DeadlineExceeded"}, {}, {**OVER, "timed_out": True}),
        ({"phase": "Failed"}, {}, {**OVER, "reason": "its pod Failed"}),
        (
            {
                "phase": "Failed",
                "initContainerStatuses": [
                    {"name": "clone", "state": {"terminated": {"exitCode": 1, "message": "no network"}}}
                ],
            },
            {"waiting": {"reason": "PodInitializing"}},
            {**OVER, "reason": "init container clone: exit code 1: no network"},
        ),
    ],
    ids=lambda value: "",
)
def test_how_an_attempt_stands_is_read_from_its_pod(status, state, expected):
    about = {"image": "i", "imageID": "", "ready": False, "restartCount": 0}
    inits = [{**about, **init} for init in status.get("initContainerStatuses", [])]
    full = {**status, "initContainerStatuses": inits, "containerStatuses": [{**about, "name": "agent", "state": state}]}
    assert standing(convert({"metadata": {"name": "p"}, "status": full}, Pod), "agent") == Standing(**expected)


def test_a_pod_that_somebody_deletes_says_so(tmp_path):
    terminated = {"exitCode": 143, "reason": "Error", **ENDED}
    status = {"name": "agent", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
    pod = {
        "metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "status": {"phase": "Failed", "containerStatuses": [{**status, "state": {"terminated": terminated}}]},
    }
    assert standing(convert(pod, Pod), "agent").reason == "its pod was deleted (exit code 143)"


@pytest.mark.parametrize(
    ("spec", "status", "disturbed", "timed_out"),
    [
        ({"suspend": True}, {}, True, False),
        ({"suspend": False}, {}, False, False),
        ({}, {"conditions": [{"type": "Failed", "status": "True", "reason": "DeadlineExceeded"}]}, False, True),
    ],
    ids=["preempted", "deleted", "too late"],
)
def test_why_a_pod_is_gone_is_read_from_its_job(spec, status, disturbed, timed_out):
    full = {"template": {"spec": {"containers": []}}, **spec}
    how = explained(DELETED, convert({"spec": full, "status": status}, Job))
    assert (how.disturbed, how.timed_out) == (disturbed, timed_out)


def test_a_pod_taken_away_before_its_container_ran_is_no_fault_of_the_agent():
    taken, left = (
        deleted(convert({"metadata": {"name": "p"}, "status": {"phase": "Pending", "conditions": conditions}}, Pod))
        for conditions in ([TAKEN], [])
    )
    assert (taken.disturbed, taken.reason) == (True, "EvictionByEvictionAPI: drain")
    assert left == DELETED


@pytest.mark.parametrize("code", [0, 143])
def test_an_agent_that_ended_while_its_pod_was_deleted_says_that_its_pod_is_gone(code):
    about = {"name": "agent", "image": "i", "imageID": "", "ready": False, "restartCount": 0}
    pod = {
        "metadata": {"name": "p", "deletionTimestamp": "2026-01-01T00:00:00Z"},
        "status": {
            "phase": "Running",
            "containerStatuses": [{**about, "state": {"terminated": {"exitCode": code, **ENDED}}}],
        },
    }
    assert standing(convert(pod, Pod), "agent").deleted
