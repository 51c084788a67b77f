"""A kubelet whose containers are processes of this machine."""

import asyncio
import base64
import contextlib
import os
import re
from pathlib import Path

from kubernetes_objects import now

VARIABLE = re.compile(r"\$\((\w+)\)")


async def as_a_process(cluster, pod):
    """Run the pod's first container as a process, with what the kubelet would give it."""
    [container, *_] = pod["spec"]["containers"]
    try:
        environment = environment_of(container, cluster.objects["secrets"])
    except KeyError as error:
        cluster.stand(pod, waiting={"reason": "CreateContainerConfigError", "message": f"secret {error} not found"})
        return
    mount(pod, container, cluster.objects["secrets"])
    words = [VARIABLE.sub(lambda found: environment[found[1]], word) for word in container["command"]]
    process = await asyncio.create_subprocess_exec(
        *words,
        env={"PATH": os.environ["PATH"], **environment},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    began = now()
    cluster.stand(pod, "Running", running={"startedAt": began})
    try:
        printed, _ = await process.communicate()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
            await process.wait()
    cluster.logs[pod["metadata"]["name"]] = printed
    code = process.returncode
    ended = {"exitCode": code, "reason": "Error" if code else "Completed", "startedAt": began, "finishedAt": now()}
    cluster.stand(pod, "Failed" if code else "Succeeded", terminated=ended)


def environment_of(container, secrets):
    found = {}
    for variable in container.get("env", []):
        if "valueFrom" in variable:
            named = variable["valueFrom"]["secretKeyRef"]
            data = secrets[named["name"]]["data"]
            found[variable["name"]] = base64.b64decode(data[named["key"]]).decode()
        else:
            found[variable["name"]] = VARIABLE.sub(lambda name: found[name[1]], variable["value"])
    return found


def mount(pod, container, secrets):
    volumes = {volume["name"]: volume["secret"] for volume in pod["spec"].get("volumes", [])}
    for mount in container.get("volumeMounts", []):
        volume = volumes[mount["name"]]
        for item in volume["items"]:
            path = Path(mount["mountPath"]) / item["path"]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(base64.b64decode(secrets[volume["secretName"]]["data"][item["key"]]))
