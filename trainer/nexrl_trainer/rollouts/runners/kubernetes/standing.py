"""How an attempt stands, from what the cluster says of its pod: it waits, it runs, or it is over, and why. Pure.

https://kubernetes.io/docs/concepts/workloads/pods/pod-lifecycle/
"""

from typing import Literal

from lightkube.models.batch_v1 import Job
from lightkube.models.core_v1 import ContainerState, ContainerStateTerminated, ContainerStatus, Pod
from msgspec import Struct, structs

HOPELESS = {"CreateContainerConfigError", "ErrImageNeverPull", "ImagePullBackOff", "InvalidImageName"}
"""Reasons of a waiting container that time does not mend."""
TAKEN_AWAY = {"DeletionByPodGC", "DeletionByTaintManager", "EvictionByEvictionAPI", "PreemptionByScheduler"}
"""Reasons of the condition DisruptionTarget that are nothing the agent did; `TerminationByKubelet` may be."""
SHUTDOWNS = {"NodeShutdown", "Terminated"}
"""Reasons of pods whose node was shut down."""
PLAIN_ENDS = {None, "", "Completed", "Error"}
"""Reasons of an ended container that say no more than its exit code."""


class Standing(Struct, frozen=True, kw_only=True):
    """How an attempt stands."""

    now: Literal["waiting", "running", "over"]
    reason: str = ""
    """Why it waits, or what ended it beyond its exit code."""
    exit_code: int = 0
    timed_out: bool = False
    disturbed: bool = False
    """The cluster took its pod away, for the sake of others."""
    deleted: bool = False
    """Its pod is gone, or going."""
    logged: bool = False
    """Its container has run, so there is a log."""
    ran_s: float = 0.0


NO_POD = Standing(now="waiting", reason="it has no pod yet")
DELETED = Standing(now="over", deleted=True, reason="its pod was deleted")
SUSPENDED = "its Job was suspended"
REPLACED = Standing(
    now="over", deleted=True, disturbed=True, reason="its Job was suspended, and runs again in another pod"
)


def standing(pod: Pod, container: str) -> Standing:
    """Return how the attempt of this pod stands, whose agent is this container."""
    state = _state_of(pod, container)
    if state.terminated:
        return _ended(pod, state.terminated)
    status = pod.status
    if status and status.phase in {"Failed", "Succeeded"}:
        return _failed(pod)
    for each in _statuses(pod):
        waiting = each.state.waiting if each.state else None
        if waiting and waiting.reason in HOPELESS:
            return Standing(now="over", reason=_said(waiting.reason, waiting.message))
    if state.running:
        return Standing(now="running", logged=True)
    return Standing(now="waiting", reason=_why_waiting(pod, state))


def deleted(pod: Pod) -> Standing:
    """Return how the attempt of this pod stands, which was deleted before its agent ended."""
    taken = _taken_away(pod)
    return structs.replace(DELETED, disturbed=True, reason=taken) if taken else DELETED


def explained(how: Standing, job: Job) -> Standing:
    """Return how an attempt ended whose pod is gone, or going, by what its Job says of that."""
    if job.spec and job.spec.suspend:
        # A queue wants its place for others (Kueue's preemption), and the cluster deletes the pods of such Jobs.
        return structs.replace(how, disturbed=True, reason=SUSPENDED)
    conditions = (job.status.conditions if job.status else None) or []
    late = any(one.status == "True" and one.reason == "DeadlineExceeded" for one in conditions)
    return structs.replace(how, timed_out=True) if late else how


def _ended(pod: Pod, how: ContainerStateTerminated) -> Standing:
    ran_s = (how.finishedAt - how.startedAt).total_seconds() if how.finishedAt and how.startedAt else 0.0
    over = Standing(now="over", exit_code=how.exitCode, logged=how.startedAt is not None, ran_s=ran_s)
    # First of all: an agent that is told to stop may well end with exit code 0, half done.
    if taken := _taken_away(pod):
        return structs.replace(over, disturbed=True, reason=taken)
    if not how.exitCode:
        return structs.replace(over, deleted=_going(pod))
    if pod.status and pod.status.reason == "DeadlineExceeded":
        return structs.replace(over, timed_out=True)
    gone = _going(pod)
    return structs.replace(over, deleted=gone, reason=_why_ended(pod, how, gone=gone))


def _why_ended(pod: Pod, how: ContainerStateTerminated, *, gone: bool) -> str:
    """Return what ended a container beyond its exit code; empty where nothing did."""
    if pod.status and pod.status.reason:
        return _said(pod.status.reason, pod.status.message)
    if how.reason not in PLAIN_ENDS:
        return f"{_said(how.reason, how.message)} (exit code {how.exitCode})"
    return f"{DELETED.reason} (exit code {how.exitCode})" if gone else ""


def _failed(pod: Pod) -> Standing:
    """Return how a pod stands that failed before its agent ran, or whose containers nobody knows any more."""
    if taken := _taken_away(pod):
        return Standing(now="over", disturbed=True, reason=taken)
    status = pod.status
    assert status
    if status.reason == "DeadlineExceeded":
        return Standing(now="over", timed_out=True)
    for each in status.initContainerStatuses or []:
        how = each.state.terminated if each.state else None
        if how and how.exitCode:
            said = _said(f"init container {each.name}: exit code {how.exitCode}", how.message)
            return Standing(now="over", deleted=_going(pod), reason=said)
    said = _said(status.reason or f"its pod {status.phase}", status.message)
    return Standing(now="over", deleted=_going(pod), reason=said)


def _going(pod: Pod) -> bool:
    return bool(pod.metadata and pod.metadata.deletionTimestamp)


def _taken_away(pod: Pod) -> str:
    """Return why the cluster took the pod away, empty where it did not."""
    status = pod.status
    for condition in (status.conditions or []) if status else []:
        if condition.type == "DisruptionTarget" and condition.status == "True" and condition.reason in TAKEN_AWAY:
            return _said(condition.reason, condition.message)
    if status and status.reason in SHUTDOWNS:
        return _said(status.reason, status.message)
    return ""


def _why_waiting(pod: Pod, state: ContainerState) -> str:
    for condition in (pod.status.conditions or []) if pod.status else []:
        if condition.type == "PodScheduled" and condition.status == "False":
            return _said(condition.reason, condition.message)
    if state.waiting and state.waiting.reason:
        return _said(state.waiting.reason, state.waiting.message)
    return "its container has not started"


def _state_of(pod: Pod, container: str) -> ContainerState:
    found = [each.state for each in _statuses(pod) if each.name == container and each.state]
    return found[0] if found else ContainerState()


def _statuses(pod: Pod) -> list[ContainerStatus]:
    status = pod.status
    return [*(status.containerStatuses or []), *(status.initContainerStatuses or [])] if status else []


def _said(reason: str | None, message: str | None) -> str:
    """Return both in one line. Example: "Evicted: The node was low on resource: memory."."""
    return ": ".join(" ".join(part.split()) for part in (reason, message) if part)
