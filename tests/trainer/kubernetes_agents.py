"""Agents in a cluster of `kubernetes_world`: started there, put into states by its kubelet, looked at."""

import asyncio
import sys

import yaml
from runner_world import runner


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
