"""The Job that a recipe's Kubernetes agent is made from: its YAML read, and refused where the run could not keep to it.

Field by field it is held against the API's own models, so that a misspelt one is found before anything starts. What a
single attempt's Job looks like says `rollouts/runners/kubernetes/manifests.py`.
"""

from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import yaml

from nexrl.errors import ConfigError

INSTALL = "pip install 'nexrl[kubernetes]'"
OURS = {
    "activeDeadlineSeconds": "it follows from agent.timeout_s and agent.kubernetes.start_s",
    "backoffLimit": "what fails is made again under a new id, agent.attempts times in all",
    "backoffLimitPerIndex": "a Job is one attempt",
    "completionMode": "a Job is one attempt",
    "completions": "a Job is one attempt",
    "manualSelector": "the cluster chooses it",
    "parallelism": "a Job is one attempt",
    "podFailurePolicy": "what fails is made again under a new id, agent.attempts times in all",
    "selector": "the cluster chooses it",
    "successPolicy": "a Job is one attempt",
}
"""Fields of a Job's `spec` that a template does not say, and why."""
EXTENDED = ("NO_PROXY", "no_proxy")
"""Variables to whose values a run adds its own."""


class JobTemplate:
    """A template that can be used; `job` is what the file says."""

    def __init__(self, job: dict[str, Any], container: str) -> None:
        self.job = job
        self.container = container
        """Name of the one that is the agent."""

    @classmethod
    def read(cls, file: Path, container: str | None) -> "JobTemplate":
        """Read the file; raises ConfigError naming what is wrong with it."""
        where = f"agent.kubernetes.template={file}"
        if find_spec("lightkube") is None:
            raise ConfigError(f"agent.kubernetes: the client for clusters is not installed; {INSTALL}")
        try:
            documents = [part for part in yaml.safe_load_all(file.read_text(encoding="utf-8")) if part is not None]
        except (OSError, ValueError, yaml.YAMLError) as error:
            raise ConfigError(f"{where}: {error}") from error
        if len(documents) != 1 or not isinstance(documents[0], dict) or documents[0].get("kind") != "Job":
            raise ConfigError(f"{where}: give one object in it, of apiVersion batch/v1 and kind Job")
        job = documents[0]
        _refuse_unknown(where, job)
        _refuse_ours(where, job)
        return cls(job, _agent(where, _pod(job)["containers"], container))

    @property
    def texts(self) -> list[str]:
        """Every text in it that may hold `{name}`s."""
        return list(_texts(self.job))

    @property
    def variables(self) -> dict[str, str]:
        """What the agent's container sets itself; empty where the cluster is to look the value up."""
        listed = agent_of(self.job, self.container).get("env") or []
        return {variable["name"]: variable.get("value") or "" for variable in listed}

    @property
    def queued(self) -> bool:
        """Whether its Jobs begin suspended, and somebody else, a queue, says when each may run."""
        return bool(self.job["spec"].get("suspend"))

    def refuse_variables(self, environment: Mapping[str, str]) -> None:
        """Raise ConfigError where an attempt's environment, which has these too, has something else in their place."""
        for name, value in self.variables.items():
            if environment[name] != value and name not in EXTENDED:
                raise ConfigError(
                    f"agent.kubernetes.template: container {self.container} sets {name}, which the run gives each "
                    "attempt; remove it"
                )


def agent_of(job: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return the container of that name."""
    return next(one for one in _pod(job)["containers"] if one["name"] == name)


def _pod(job: Mapping[str, Any]) -> dict[str, Any]:
    node: Any = job
    for name in ("spec", "template", "spec"):
        node = node.get(name) or {}
    return node


def _refuse_unknown(where: str, job: dict[str, Any]) -> None:
    from lightkube.models.batch_v1 import Job

    try:
        kept = Job.from_dict(job).to_dict()
    except msgspec.ValidationError as error:
        raise ConfigError(f"{where}: {error}") from error
    if not _pod(kept).get("containers"):
        raise ConfigError(f"{where}: spec.template.spec.containers is missing; name the agent's image there")
    for path in _lost(job, kept, ""):
        raise ConfigError(f"{where}: the Kubernetes API has no {path}; is it misspelt, or too deep or not deep enough?")
    if job.get("apiVersion") != "batch/v1":
        raise ConfigError(f"{where}: apiVersion {job.get('apiVersion')}: use batch/v1")


def _lost(given: Any, kept: Any, path: str) -> Iterator[str]:
    """Yield where something stands that the API's models did not keep. An absent value and null are the same."""
    if isinstance(given, dict):
        for name, value in given.items():
            here = f"{path}.{name}".lstrip(".")
            if value in (None, {}, []):
                continue
            if not isinstance(kept, dict) or name not in kept:
                yield here
            else:
                yield from _lost(value, kept[name], here)
    elif isinstance(given, list) and isinstance(kept, list):
        for number, (one, other) in enumerate(zip(given, kept, strict=True)):
            yield from _lost(one, other, f"{path}[{number}]")


def _refuse_ours(where: str, job: Mapping[str, Any]) -> None:
    spec = job["spec"]
    for name, reason in OURS.items():
        if spec.get(name) is not None:
            raise ConfigError(f"{where}: remove spec.{name}: {reason}")
    if job.get("metadata", {}).get("namespace"):
        raise ConfigError(f"{where}: remove metadata.namespace, and set agent.kubernetes.namespace")
    policy = _pod(job).get("restartPolicy", "Never")
    if policy != "Never":
        raise ConfigError(
            f"{where}: restartPolicy {policy}: a container that begins again would go on in a failed attempt; use "
            "Never, and agent.attempts"
        )


def _agent(where: str, containers: list[dict[str, Any]], name: str | None) -> str:
    names = [container["name"] for container in containers]
    if name is None and len(names) == 1:
        return names[0]
    if name is None or name not in names:
        found = f"no container {name}" if name else "several containers"
        raise ConfigError(f"{where}: {found}; set agent.kubernetes.container to one of {', '.join(names)}")
    return name


def _texts(node: Any) -> Iterator[str]:
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict):
        for value in node.values():
            yield from _texts(value)
    elif isinstance(node, list):
        for value in node:
            yield from _texts(value)
