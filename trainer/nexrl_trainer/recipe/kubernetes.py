"""The `agent.kubernetes` part of a recipe: an agent that is a container image, a Job in a cluster for each attempt."""

from typing import Annotated

from msgspec import Meta

from nexrl_trainer.recipe.part import Part, Seconds

Address = Annotated[str, Meta(pattern=r"^https?://[^/\s]+$")]
"""Without a path: `http://trainer.default.svc:8001`."""
ELSEWHERE = {
    "stdin": "use agent.env or agent.files",
    "cwd": "set workingDir in the template",
    "keep_files": "remove it",
    "limits": "set resources in the template",
    "preload": "remove it",
    "network": "use a NetworkPolicy",
}
"""Settings of other agents that a pod does not have, and what to do instead."""


class Kubernetes(Part, frozen=True, kw_only=True):
    template: str
    """YAML file with the Job (batch/v1) of an attempt. In its texts `{name}` stands for the task's field of that name,
    so each task may have an image of its own."""
    proxy: Address
    """Where pods reach the run's proxy: `http://HOST:PORT`, by way of `proxy.host` and `proxy.port`."""
    ingest: Address
    """Where pods reach the run's ingest, by way of `ingest.host` and `ingest.port`."""
    namespace: str | None = None
    """Namespace of the Jobs; none is that of the context or of the service account."""
    context: str | None = None
    """Context of the kubeconfig (KUBECONFIG, ~/.kube/config). None is the pod's service account where the trainer runs
    in a cluster, and the kubeconfig's current context elsewhere."""
    container: str | None = None
    """The container that is the agent, where the template has several."""
    files_at: Annotated[str, Meta(pattern=r"^/.+$")] = "/nexrl"
    """Folder in that container where `agent.files` lie, to be read alone."""
    start_s: Seconds = 600.0
    """Time for an attempt's container to start: a node is found for it, its image pulled. Time that a queue holds its
    Job suspended (Kueue) does not count; `agent.timeout_s` begins once it runs."""
