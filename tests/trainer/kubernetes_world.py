"""An API server as the Kubernetes documentation has it, in front of a namespace whose kubelet runs processes.

What a test wants to go wrong it says in `faults`, or by a kubelet of its own.
"""

import asyncio
import base64
import contextlib
import json
import uuid
from collections import Counter

from aiohttp import web
from kubernetes_namespace import NAMESPACE, Namespace
from kubernetes_objects import KINDS, asked_of, complaint, now, official, refusal, refused, selected

TOKEN = "a-service-accounts-token"


class Cluster(Namespace):
    """One namespace of a cluster, behind its API server."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder
        self.asked = Counter()
        """(verb, group, resource) of every request."""
        self.faults = []
        """Functions of (verb, resource, request), each of which may answer; asked in turn, before anything happens."""
        self.forbidden = set()
        self.out_of_reach = False
        self._watches = set()

    @property
    def kubeconfig(self):
        return self.folder / "kubeconfig"

    def hang_up(self):
        """Break every watch off, in the middle of a line."""
        for transport in self._watches:
            transport.abort()

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
        self.note("ADDED", kind, thing)
        self.see_to(thing)
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
        self.note("MODIFIED", "jobs", thing)
        self.see_to(thing)
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
        if since < self.forgotten:
            gone = refusal(410, "Expired", f"too old resource version: {since} ({self.forgotten})")
            await stream.write(line("ERROR", gone))
            return stream
        self._watches.add(request.transport)
        with contextlib.suppress(TimeoutError, ConnectionError):
            async with asyncio.timeout(float(request.query.get("timeoutSeconds", 1800))):
                while True:
                    news = self.news
                    for event, of, thing in self.happened_since(since):
                        marked = event == "BOOKMARK" and request.query.get("allowWatchBookmarks") == "true"
                        if marked or (of == kind and selected(thing, request)):
                            await stream.write(line(event, thing))
                    since = self.version
                    await news.wait()
        return stream

    def _missing(self, request):
        kind, name = request.match_info["kind"], request.match_info["name"]
        return refused(404, "NotFound", f'{kind} "{name}" not found')


def line(event, thing):
    return json.dumps({"type": event, "object": thing}).encode() + b"\n"


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
