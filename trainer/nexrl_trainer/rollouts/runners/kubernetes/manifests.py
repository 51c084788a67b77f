"""What a cluster is given for one attempt: a Job made from the template, and a Secret with what only its agent may see.

The Job begins suspended: its Secret, which the Job is to own, can only be made once the Job is there, and its pod only
once the Secret is. Deleting the Job takes both with it. Pure.
"""

import copy
import hashlib
import re
from collections.abc import Mapping
from math import ceil
from typing import Any

from lightkube.models.batch_v1 import Job
from lightkube.models.core_v1 import EnvVar, EnvVarSource, Secret, SecretKeySelector
from lightkube.models.meta_v1 import ObjectMeta, OwnerReference
from msgspec import Struct, convert, to_builtins

from nexrl_trainer.recipe.job_template import JobTemplate, agent_of
from nexrl_trainer.rollouts.runners.environment import fill

RUN, ATTEMPT = "nexrl.dev/run", "nexrl.dev/attempt"
NAME_CHARACTERS = 52
"""Of 63 that a label may have: a pod's name has six more than its Job's."""
KEPT_S = 3600
"""A Job that nobody deletes is gone so long after its end: its log is not lost to an outage that is shorter."""
GRACE_S = 5
"""Time between SIGTERM and SIGKILL where the template says nothing."""
SPARE_S = 60
"""Beyond an attempt's time: the cluster ends a Job by itself only where its trainer is gone."""
FILES = "nexrl-files"


class Given(Struct, frozen=True, kw_only=True):
    """What of an attempt goes into its Job and its Secret."""

    attempt: str
    run: str
    """Label of everything that belongs to this run."""
    fields: Mapping[str, Any]
    """What `{name}`s stand for."""
    environment: Mapping[str, str]
    files: Mapping[str, str]
    """Text by path."""


def object_name(attempt: str) -> str:
    """Return the name of an attempt's Job and Secret: a DNS label (RFC 1123), another one for each attempt.

    Example: `maze-12-r03-9f2c@eval` -> `maze-12-r03-9f2c-eval-` and ten digits of its SHA-256
    """
    return _label(attempt, NAME_CHARACTERS)


def run_label(run: str, identity: str) -> str:
    """Return the label's value for one run directory: runs of the same name may share a namespace."""
    return f"{_plain(run)[:40].strip('-')}-{identity}".strip("-")


def job_of(template: JobTemplate, given: Given, *, limit_s: float, files_at: str) -> Job:
    """Return an attempt's Job, suspended; raises ConfigError where the template asks for what the task lacks.

    `limit_s` is all the time that its pod may take.
    """
    job = _filled(copy.deepcopy(template.job), given.fields)
    _name(job.setdefault("metadata", {}), given)
    spec = job["spec"]
    spec |= {"suspend": True, "backoffLimit": 0, "activeDeadlineSeconds": ceil(limit_s) + SPARE_S}
    spec.setdefault("ttlSecondsAfterFinished", KEPT_S)
    _label_all(spec["template"].setdefault("metadata", {}), given)
    pod = spec["template"]["spec"]
    pod["restartPolicy"] = "Never"
    pod.setdefault("terminationGracePeriodSeconds", GRACE_S)
    container = agent_of(job, template.container)
    own = [variable for variable in container.get("env") or [] if variable["name"] not in given.environment]
    # Ours first: the template's own may refer to them as $(NAME).
    container["env"] = [*_variables(given), *own]
    if given.files:
        _mount(pod, container, given, files_at)
    return convert(job, Job)


def secret_of(job: Job, given: Given) -> Secret:
    """Return what only the attempt's agent may see, owned by its Job, which has been made."""
    assert job.metadata
    assert job.metadata.name
    assert job.metadata.uid
    owner = OwnerReference(apiVersion="batch/v1", kind="Job", name=job.metadata.name, uid=job.metadata.uid)
    metadata = ObjectMeta(name=job.metadata.name, ownerReferences=[owner])
    metadata.labels = {RUN: given.run, ATTEMPT: job.metadata.name}
    texts = {_file_key(number): text for number, text in enumerate(given.files.values())}
    return Secret(metadata=metadata, stringData={**given.environment, **texts}, type="Opaque", immutable=True)


def _variables(given: Given) -> list[dict[str, Any]]:
    secret = object_name(given.attempt)
    return [
        to_builtins(EnvVar(name=name, valueFrom=EnvVarSource(secretKeyRef=SecretKeySelector(key=name, name=secret))))
        for name in given.environment
    ]


def _mount(pod: dict[str, Any], container: dict[str, Any], given: Given, files_at: str) -> None:
    items = [{"key": _file_key(number), "path": path} for number, path in enumerate(given.files)]
    volume = {"name": FILES, "secret": {"secretName": object_name(given.attempt), "items": items}}
    pod["volumes"] = [*(pod.get("volumes") or []), volume]
    mount = {"name": FILES, "mountPath": files_at, "readOnly": True}
    container["volumeMounts"] = [*(container.get("volumeMounts") or []), mount]


def _file_key(number: int) -> str:
    # A path is no key of a Secret.
    return f"file-{number}"


def _name(metadata: dict[str, Any], given: Given) -> None:
    metadata.pop("generateName", None)
    metadata["name"] = object_name(given.attempt)
    _label_all(metadata, given)


def _label_all(metadata: dict[str, Any], given: Given) -> None:
    ours = {RUN: given.run, ATTEMPT: object_name(given.attempt)}
    metadata["labels"] = {**(metadata.get("labels") or {}), **ours}
    # Its id has characters that a label may not have.
    metadata["annotations"] = {**(metadata.get("annotations") or {}), ATTEMPT: given.attempt}


def _filled(node: Any, fields: Mapping[str, Any]) -> Any:
    if isinstance(node, str):
        return fill(node, fields)
    if isinstance(node, dict):
        return {name: _filled(value, fields) for name, value in node.items()}
    return [_filled(value, fields) for value in node] if isinstance(node, list) else node


def _label(text: str, most: int) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    start = _plain(text)[: most - len(digest) - 1].strip("-")
    return f"{start}-{digest}" if start else f"a-{digest}"


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")
