"""The objects of a namespace, what happens to them, and who sees to them: a Job controller, a garbage collector."""

import asyncio
import copy
import uuid

from kubernetes_kubelet import as_a_process
from kubernetes_objects import KINDS, now, official, owner_of

NAMESPACE = "agents"


class Namespace:
    """Objects by kind and name, with versions; every change is kept for those who watch."""

    def __init__(self):
        self.kubelet = as_a_process
        self.objects = {kind: {} for kind in KINDS}
        self.logs = {}
        self.makes_pods = True
        self.version = 100
        self.forgotten = 0
        """Of what happened up to this version nobody knows any more."""
        self.news = asyncio.Event()
        """Set, and then another one, with everything that happens."""
        self._happened = []
        self._containers = {}

    def happened_since(self, version):
        """Return the event, the kind and the object of everything that happened after a version."""
        return self._happened[version - self.version :] if version < self.version else []

    def forget(self):
        """Keep nothing of what happened so far, as etcd does after five minutes."""
        self.forgotten = self.version
        self._happened.clear()

    def stand(self, pod, phase="Pending", *, status=None, **state):
        """Set the state of a pod's first container."""
        [container, *_] = pod["spec"]["containers"]
        about = {"name": container["name"], "image": container["image"], "imageID": "", "restartCount": 0}
        about |= {"ready": "running" in state, "state": state}
        pod["status"] = {"phase": phase, "containerStatuses": [about], **(status or {})}
        self.note("MODIFIED", "pods", pod)

    def bookmark(self):
        """Tell all who watch pods which version they have seen everything of."""
        self.version += 1
        bookmark = {"apiVersion": "v1", "kind": "Pod", "metadata": {"resourceVersion": str(self.version)}}
        self._tell("BOOKMARK", "", bookmark)

    def admit(self, name):
        """Let a suspended Job run, as a queue does."""
        job = self.objects["jobs"][name]
        job["spec"]["suspend"] = False
        self.note("MODIFIED", "jobs", job)
        self.see_to(job)

    def remove(self, kind, name):
        """Delete an object, and all that it owns."""
        thing = self.objects[kind].pop(name)
        if task := self._containers.pop(name, None):
            task.cancel()
        self.note("DELETED", kind, thing)
        for other_kind, others in self.objects.items():
            for other in [name for name, other in others.items() if owner_of(other) == thing["metadata"]["uid"]]:
                self.remove(other_kind, other)

    def note(self, event, kind, thing):
        """Tell all who watch how an object is since."""
        self.version += 1
        thing["metadata"]["resourceVersion"] = str(self.version)
        self._tell(event, kind, copy.deepcopy(official(thing)))

    def see_to(self, job):
        """Make the pod of a Job that may have one, and run it."""
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
        self.note("ADDED", "pods", pod)
        self._containers[name] = asyncio.get_running_loop().create_task(self.kubelet(self, pod))

    def _tell(self, event, kind, thing):
        self._happened.append((event, kind, thing))
        news, self.news = self.news, asyncio.Event()
        news.set()

    async def close(self):
        """End what runs."""
        for task in self._containers.values():
            task.cancel()
        await asyncio.gather(*self._containers.values(), return_exceptions=True)
