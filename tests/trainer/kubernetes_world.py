"""An API server as the Kubernetes documentation has it, and behind it a Job controller, a garbage collector, a kubelet.

Every object that goes in or out passes the strict models of the official client, which are made from the API's own
OpenAPI description. A container is a process of this machine. What a test wants to go wrong it says in `faults` or by
a kubelet of its own.
"""

import asyncio
import base64
import contextlib
import copy
import functools
import importlib
import json
import os
import re
import uuid
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

from aiohttp import web

NAMESPACE, TOKEN = "agents", "a-service-accounts-token"
MODELS = {
    "Job": "v1_job.V1Job",
    "JobList": "v1_job_list.V1JobList",
    "Pod": "v1_pod.V1Pod",
    "PodList": "v1_pod_list.V1PodList",
    "Secret": "v1_secret.V1Secret",
    "Event": "core_v1_event.CoreV1Event",
    "EventList": "core_v1_event_list.CoreV1EventList",
    "Status": "v1_status.V1Status",
    "SelfSubjectAccessReview": "v1_self_subject_access_review.V1SelfSubjectAccessReview",
}
KINDS = {"jobs": ("batch/v1", "Job"), "pods": ("v1", "Pod"), "secrets": ("v1", "Secret"), "events": ("v1", "Event")}
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
VARIABLE = re.compile(r"\$\((\w+)\)")


def now():
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def official(thing):
    """Return it unchanged, once the official models have taken all of it."""
    model(thing["kind"]).model_validate_json(json.dumps(thing))
    return thing


@functools.cache
def model(kind):
    """Return an official model; they take seconds to import, which is no business of those who only collect tests."""
    module, name = MODELS[kind].split(".")
    return getattr(importlib.import_module(f"kubernetes.client.models.{module}"), name)


def refusal(code, reason, message):
    status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return official({**status, "message": message, "reason": reason, "code": code})


def refused(code, reason, message, **headers):
    return web.json_response(refusal(code, reason, message), status=code, headers=headers)


async def as_a_process(cluster, pod):
    """Run the pod's first container as a process, with what the kubelet would give it."""
    [container, *_] = pod["spec"]["containers"]
    try:
        environment = cluster.environment(container)
    except KeyError as error:
        cluster.stand(pod, waiting={"reason": "CreateContainerConfigError", "message": f"secret {error} not found"})
        return
    cluster.mount(pod, container)
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


class Cluster:
    """One namespace, its objects, and what has happened to them."""

    def __init__(self, folder):
        self.folder = folder
        self.kubelet = as_a_process
        self.objects = {kind: {} for kind in KINDS}
        self.logs = {}
        self.asked = Counter()
        """(verb, group, resource) of every request."""
        self.faults = []
        """Functions of (verb, resource, request), each of which may answer; asked in turn, before anything happens."""
        self.forbidden = set()
        self.makes_pods = True
        self.out_of_reach = False
        self.version = 100
        self._happened = []
        self._forgotten = 0
        self._news = asyncio.Event()
        self._containers = {}
        self._watches = set()

    # What a test sees and does.

    @property
    def kubeconfig(self):
        return self.folder / "kubeconfig"

    def forget(self):
        """Keep nothing of what happened so far, as etcd does after five minutes."""
        self._forgotten = self.version
        self._happened.clear()

    def stand(self, pod, phase="Pending", *, status=None, **state):
        """Set the state of a pod's first container."""
        [container, *_] = pod["spec"]["containers"]
        about = {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0}
        about |= {"ready": "running" in state, "state": state}
        pod["status"] = {"phase": phase, "containerStatuses": [about], **(status or {})}
        self._note("MODIFIED", "pods", pod)

    def bookmark(self):
        """Tell all who watch pods which version they have seen everything of."""
        self.version += 1
        bookmark = {"apiVersion": "v1", "kind": "Pod", "metadata": {"resourceVersion": str(self.version)}}
        self._tell("BOOKMARK", "", bookmark)

    def admit(self, name):
        """Let a suspended Job run, as a queue does."""
        job = self.objects["jobs"][name]
        job["spec"]["suspend"] = False
        self._note("MODIFIED", "jobs", job)
        self._controlled(job)

    def hang_up(self):
        """Break every watch off, in the middle of a line."""
        for transport in self._watches:
            transport.abort()

    def remove(self, kind, name):
        thing = self.objects[kind].pop(name)
        if task := self._containers.pop(name, None):
            task.cancel()
        self._note("DELETED", kind, thing)
        for other_kind, others in self.objects.items():
            for other in [name for name, other in others.items() if owner_of(other) == thing["metadata"]["uid"]]:
                self.remove(other_kind, other)

    def environment(self, container):
        found = {}
        for variable in container.get("env", []):
            if "valueFrom" in variable:
                named = variable["valueFrom"]["secretKeyRef"]
                data = self.objects["secrets"][named["name"]]["data"]
                found[variable["name"]] = base64.b64decode(data[named["key"]]).decode()
            else:
                found[variable["name"]] = VARIABLE.sub(lambda name: found[name[1]], variable["value"])
        return found

    def mount(self, pod, container):
        volumes = {volume["name"]: volume["secret"] for volume in pod["spec"].get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            volume = volumes[mount["name"]]
            for item in volume["items"]:
                path = Path(mount["mountPath"]) / item["path"]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(self.objects["secrets"][volume["secretName"]]["data"][item["key"]]))

    # The routes.

    def app(self):
        app = web.Application(middlewares=[self._door], client_max_size=4 << 20)
        core, batch = f"/api/v1/namespaces/{NAMESPACE}", f"/apis/batch/v1/namespaces/{NAMESPACE}"
        app.add_routes(
            [
                web.post("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews", self._review),
                web.post(batch + "/{kind:jobs}", self._create),
                web.get(batch + "/{kind:jobs}", self._list),
                web.get(batch + "/{kind:jobs}/{name}", self._get),
                web.patch(batch + "/{kind:jobs}/{name}", self._patch),
                web.delete(batch + "/{kind:jobs}/{name}", self._delete),
                web.post(core + "/{kind:secrets}", self._create),
                web.get(core + "/{kind:pods|events}", self._list),
                web.get(core + "/{kind:pods}/{name}/{part:log}", self._log),
            ]
        )
        return app

    @web.middleware
    async def _door(self, request, handler):
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return refused(401, "Unauthorized", "Unauthorized")
        if self.out_of_reach:
            request.transport.abort()
        verb, group, resource = asked_of(request)
        self.asked[verb, group, resource] += 1
        for fault in list(self.faults):
            if answer := await fault(verb, resource, request):
                return answer
        if (verb, resource) in self.forbidden:
            return refused(403, "Forbidden", f"{resource} is forbidden: User cannot {verb} resource {resource}")
        return await handler(request)

    async def _review(self, request):
        review = official(await request.json())
        about = review["spec"]["resourceAttributes"]
        resource = "/".join(filter(None, [about["resource"], about.get("subresource")]))
        assert about["namespace"] == NAMESPACE
        review["status"] = {"allowed": (about["verb"], resource) not in self.forbidden}
        return web.json_response(official(review), status=201)

    async def _create(self, request):
        kind, thing = request.match_info["kind"], official(await request.json())
        assert (thing["apiVersion"], thing["kind"]) == KINDS[kind]
        name = thing["metadata"]["name"]
        if name in self.objects[kind]:
            return refused(409, "AlreadyExists", f'{kind} "{name}" already exists')
        if invalid := complaint(thing):
            return refused(422, "Invalid", f'{thing["kind"]} "{name}" is invalid: {invalid}')
        thing["metadata"] |= {"namespace": NAMESPACE, "uid": str(uuid.uuid4()), "creationTimestamp": now()}
        for key, text in thing.pop("stringData", {}).items():
            thing.setdefault("data", {})[key] = base64.b64encode(text.encode()).decode()
        self.objects[kind][name] = thing
        self._note("ADDED", kind, thing)
        self._controlled(thing)
        return web.json_response(official(thing), status=201)

    async def _list(self, request):
        kind = request.match_info["kind"]
        if request.query.get("watch") == "true":
            return await self._watch(request, kind)
        found = [thing for thing in self.objects[kind].values() if selected(thing, request)]
        begin, limit = int(request.query.get("continue", 0)), int(request.query.get("limit", 500))
        rest = {"continue": str(begin + limit)} if len(found) > begin + limit else {}
        api, name = KINDS[kind]
        metadata = {"resourceVersion": str(self.version), **rest}
        listed = {"apiVersion": api, "kind": f"{name}List", "metadata": metadata}
        return web.json_response(official({**listed, "items": found[begin : begin + limit]}))

    async def _get(self, request):
        thing = self.objects[request.match_info["kind"]].get(request.match_info["name"])
        return web.json_response(official(thing)) if thing else self._missing(request)

    async def _patch(self, request):
        assert request.content_type == "application/merge-patch+json"
        thing = self.objects["jobs"].get(request.match_info["name"])
        if thing is None:
            return self._missing(request)
        [(part, change)] = (await request.json()).items()
        thing[part] |= change
        self._note("MODIFIED", "jobs", thing)
        self._controlled(thing)
        return web.json_response(official(thing))

    async def _delete(self, request):
        name = request.match_info["name"]
        if name not in self.objects["jobs"]:
            return self._missing(request)
        assert request.query["propagationPolicy"] == "Background"
        self.remove("jobs", name)
        return web.json_response(official({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}))

    async def _log(self, request):
        name = request.match_info["name"]
        if name not in self.objects["pods"]:
            return self._missing(request)
        assert request.query["container"] == self.objects["pods"][name]["spec"]["containers"][0]["name"]
        return web.Response(body=self.logs.get(name, b""), content_type="text/plain")

    async def _watch(self, request, kind):
        since = int(request.query["resourceVersion"])
        stream = web.StreamResponse(headers={"Content-Type": "application/json"})
        await stream.prepare(request)
        if since < self._forgotten:
            gone = refusal(410, "Expired", f"too old resource version: {since} ({self._forgotten})")
            await stream.write(line("ERROR", gone))
            return stream
        self._watches.add(request.transport)
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(float(request.query.get("timeoutSeconds", 1800))):
                while True:
                    news = self._news
                    for _, event, of, thing in self._happened[since - self.version :] if since < self.version else ():
                        marked = event == "BOOKMARK" and request.query.get("allowWatchBookmarks") == "true"
                        if marked or (of == kind and selected(thing, request)):
                            await stream.write(line(event, thing))
                    since = self.version
                    await news.wait()
        return stream

    def _missing(self, request):
        kind, name = request.match_info["kind"], request.match_info["name"]
        return refused(404, "NotFound", f'{kind} "{name}" not found')

    # What controllers do.

    def _note(self, event, kind, thing):
        self.version += 1
        thing["metadata"]["resourceVersion"] = str(self.version)
        self._tell(event, kind, copy.deepcopy(official(thing)))

    def _tell(self, event, kind, thing):
        self._happened.append((self.version, event, kind, thing))
        news, self._news = self._news, asyncio.Event()
        news.set()

    def _controlled(self, job):
        if job["kind"] != "Job" or job["spec"].get("suspend") or not self.makes_pods:
            return
        about, template = job["metadata"], job["spec"]["template"]
        owner = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "name": about["name"],
            "uid": about["uid"],
            "controller": True,
        }
        name = f"{about['name']}-{uuid.uuid4().hex[:5]}"
        labels = {**template["metadata"]["labels"], "job-name": about["name"]}
        metadata = {"name": name, "namespace": NAMESPACE, "uid": str(uuid.uuid4()), "labels": labels}
        metadata |= {"ownerReferences": [owner], "creationTimestamp": now()}
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": copy.deepcopy(template["spec"])}
        pod["status"] = {"phase": "Pending"}
        self.objects["pods"][name] = pod
        self._note("ADDED", "pods", pod)
        self._containers[name] = asyncio.get_running_loop().create_task(self.kubelet(self, pod))

    async def close(self):
        for task in self._containers.values():
            task.cancel()
        await asyncio.gather(*self._containers.values(), return_exceptions=True)


def line(event, thing):
    return json.dumps({"type": event, "object": thing}).encode() + b"\n"


def owner_of(thing):
    return next((owner["uid"] for owner in thing["metadata"].get("ownerReferences", [])), None)


def asked_of(request):
    """Return the verb, the API group and the resource of a request, as RBAC counts them."""
    words = request.path.strip("/").split("/")
    group = "" if words[0] == "api" else words[1]
    if "namespaces" not in words:
        return "create", group, words[-1]
    resource, *rest = words[words.index("namespaces") + 2 :]
    resource = "/".join([resource, *rest[1:]])
    verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(request.method, "get" if rest else "list")
    return "watch" if request.query.get("watch") == "true" else verb, group, resource


def selected(thing, request):
    labels = thing["metadata"].get("labels", {})
    wanted = [part.split("=") for part in request.query.get("labelSelector", "").split(",") if part]
    fields = dict(part.split("=") for part in request.query.get("fieldSelector", "").split(",") if part)
    about = {"involvedObject.name": thing.get("involvedObject", {}).get("name"), "type": thing.get("type")}
    return all(labels.get(name) == value for name, value in wanted) and fields.items() <= about.items()


def complaint(thing):
    """Return what the server's own validation says of names, labels and a Job's pod."""
    metadata = [thing["metadata"]]
    if thing["kind"] == "Job":
        metadata.append(thing["spec"]["template"]["metadata"])
        if thing["spec"]["template"]["spec"].get("restartPolicy") not in {"Never", "OnFailure"}:
            return 'spec.template.spec.restartPolicy: Required value: valid values: "OnFailure", "Never"'
    for each in metadata:
        name = each.get("name", "a")
        if not DNS_LABEL.fullmatch(name) or len(name) > 63:
            return f"metadata.name: Invalid value: {name!r}"
        for value in each.get("labels", {}).values():
            if not LABEL_VALUE.fullmatch(value) or len(value) > 63:
                return f"metadata.labels: Invalid value: {value!r}"
    return None


@contextlib.asynccontextmanager
async def cluster_at(folder):
    """Serve a cluster; its kubeconfig is in the folder."""
    cluster = Cluster(folder)
    served = web.AppRunner(cluster.app(), access_log=None, shutdown_timeout=0.1)
    await served.setup()
    await web.TCPSite(served, "127.0.0.1", 0).start()
    server = f"http://127.0.0.1:{served.addresses[0][1]}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": server}}],
        "users": [{"name": "u", "user": {"token": TOKEN}}],
        "contexts": [{"name": "training", "context": {"cluster": "c", "user": "u", "namespace": NAMESPACE}}],
        "current-context": "training",
    }
    cluster.kubeconfig.write_text(json.dumps(config))
    try:
        yield cluster
    finally:
        await cluster.close()
        await served.cleanup()
