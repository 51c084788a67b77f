"""Objects of a cluster as the API has them: what the official models take, and what its server says of requests.

The strict models of the official client are made from the API's own OpenAPI description.
"""

import functools
import importlib
import json
import re
from datetime import UTC, datetime

from aiohttp import web

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
