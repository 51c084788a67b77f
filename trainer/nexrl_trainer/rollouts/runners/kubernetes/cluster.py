"""What the runner asks of a cluster: Jobs and Secrets made and deleted, pods seen, logs read. Every request is in here.

Who we are there, and how that is proved, is the library's business (kubeconfig, plugins, a service account's token that
changes), and so are the models; the requests are few, and ours.
https://kubernetes.io/docs/reference/using-api/api-concepts/. `ALLOWED` is what the trainer's account must be allowed to
do; docs/agents.md has it as a Role.
"""

import asyncio
import os
from collections.abc import AsyncGenerator, Awaitable
from http import HTTPStatus
from typing import Any, Generic, Self, TypeVar

import httpx2
import msgspec
from lightkube import KubeConfig
from lightkube.config.client_adapter import AsyncClient, ConnectionParams
from lightkube.config.kubeconfig import DEFAULT_KUBECONFIG, SingleConfig
from lightkube.core.exceptions import ConfigError as LightkubeConfigError
from lightkube.models.authorization_v1 import (
    ResourceAttributes,
    SelfSubjectAccessReview,
    SelfSubjectAccessReviewSpec,
)
from lightkube.models.batch_v1 import Job
from lightkube.models.core_v1 import Event, Pod, Secret
from lightkube.models.meta_v1 import ListMeta, Status
from msgspec import Struct

from nexrl.errors import ConfigError
from nexrl_trainer.rollouts.runners.kubernetes.manifests import ATTEMPT, RUN
from nexrl_trainer.rollouts.runners.kubernetes.patience import TROUBLE, EventError, Patience, in_words, status_of
from nexrl_trainer.rollouts.runners.process import Newest

T = TypeVar("T")
ALLOWED = {
    ("batch", "jobs"): ("create", "delete", "get", "list", "patch"),
    ("", "secrets"): ("create",),
    ("", "pods"): ("list", "watch"),
    ("", "pods/log"): ("get",),
    ("", "events"): ("list",),
}
REVIEWS = "apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
REQUEST_S = 30.0
START_S = 30.0
LOG_S = 60.0
"""A log that cannot be read for so long is given up: its node may be gone."""
WATCH_S = 60
"""Time after which the server ends a watch."""
SPARE_S = 15
"""Beyond that, before a connection counts as one that leads nowhere."""
PAGE = "500"
AT_ONCE = 16
"""Requests, beside the watch: as many as have a connection that is kept, and no flood when a step begins."""


class Listed(Struct, Generic[T]):
    """One page of a list."""

    metadata: ListMeta
    items: list[T] | None = None


class Happened(Struct):
    """A line of a watch."""

    type: str
    object: msgspec.Raw


class Cluster:
    """One namespace of a cluster, and in it what carries a run's label."""

    def __init__(self, http: httpx2.AsyncClient, namespace: str, run: str, patience: Patience) -> None:
        self._http = http
        self.namespace = namespace
        self._run = run
        self._patience = patience
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._core, self._batch = f"api/v1/namespaces/{namespace}", f"apis/batch/v1/namespaces/{namespace}"

    @classmethod
    def reached(cls, *, context: str | None, namespace: str | None, run: str, patience: Patience) -> Self:
        """Return the cluster that the context, the service account or the kubeconfig names.

        Raises ConfigError where none of them names one.
        """
        try:
            config = _config(context)
            http = AsyncClient(config, ConnectionParams(timeout=httpx2.Timeout(REQUEST_S)))
        except (LightkubeConfigError, msgspec.ValidationError, KeyError, OSError, ValueError) as error:
            named = f"agent.kubernetes.context={context}" if context else "agent.kubernetes"
            raise ConfigError(
                f"{named}: no cluster: {error}; name a context of ~/.kube/config or KUBECONFIG, or run in a cluster"
            ) from error
        return cls(http, namespace or config.namespace, run, patience)

    async def close(self) -> None:
        """Let go of its connections."""
        await self._http.aclose()

    async def check(self) -> None:
        """Raise ConfigError where the cluster is out of reach, or forbids what is needed."""
        for (group, resource), verbs in ALLOWED.items():
            for verb in verbs:
                try:
                    allowed = await self._may(group, resource, verb)
                except (*TROUBLE, ValueError) as error:
                    said = in_words(error) if isinstance(error, TROUBLE) else error
                    raise ConfigError(f"agent.kubernetes: the cluster at {self._http.base_url} says: {said}") from error
                if not allowed:
                    raise ConfigError(
                        f"agent.kubernetes: may not {verb} {resource} in namespace {self.namespace}; give the account "
                        "the Role that docs/agents.md has"
                    )

    async def create(self, job: Job, *, within_s: float) -> Job:
        """Make a Job, and return it as it is there.

        Raises ValueError where it is refused, or the server has not managed to within that time; so do those below.
        """
        made = await self._patience.ask(
            lambda: _unless(HTTPStatus.CONFLICT, self._asked("POST", f"{self._batch}/jobs", Job, body=job)),
            answered_s=within_s,
        )
        if made is None:
            # Its name is the attempt's: somebody has made it, and that was us, but the answer got lost.
            assert job.metadata
            made = await self.job(job.metadata.name or "")
        if made is None:
            raise ValueError("its Job was deleted")
        return made

    async def create_secret(self, secret: Secret, *, within_s: float) -> None:
        """Make a Secret."""
        await self._patience.ask(
            lambda: _unless(HTTPStatus.CONFLICT, self._asked("POST", f"{self._core}/secrets", Secret, body=secret)),
            answered_s=within_s,
        )

    async def begin(self, name: str, *, within_s: float) -> None:
        """Let a suspended Job run."""
        change = {"spec": {"suspend": False}}
        await self._patience.ask(
            lambda: self._asked("PATCH", f"{self._batch}/jobs/{name}", Job, body=change), answered_s=within_s
        )

    async def job(self, name: str) -> Job | None:
        """Return a Job; None where there is none."""
        return await self._patience.ask(
            lambda: _unless(HTTPStatus.NOT_FOUND, self._asked("GET", f"{self._batch}/jobs/{name}", Job))
        )

    async def delete(self, name: str) -> None:
        """Have a Job deleted, and by the cluster's own doing all that it owns; one that is gone is no error."""
        asked = {"propagationPolicy": "Background"}
        await self._patience.ask(
            lambda: _unless(
                HTTPStatus.NOT_FOUND, self._asked("DELETE", f"{self._batch}/jobs/{name}", msgspec.Raw, **asked)
            )
        )

    async def jobs(self) -> list[str]:
        """Return the names of the run's Jobs."""
        found, _ = await self._patience.ask(lambda: self._all(f"{self._batch}/jobs", Job, labelSelector=self._label))
        return [job.metadata.name for job in found if job.metadata and job.metadata.name]

    async def pods(self) -> tuple[list[Pod], str]:
        """Return the run's pods, and the version of the collection that a watch goes on from."""
        return await self._patience.ask(lambda: self._all(f"{self._core}/pods", Pod, labelSelector=self._label))

    async def pod(self, name: str) -> Pod | None:
        """Return the pod of a Job, as it is now."""
        label = f"{self._label},{ATTEMPT}={name}"
        found, _ = await self._patience.ask(lambda: self._all(f"{self._core}/pods", Pod, labelSelector=label))
        return found[0] if found else None

    async def warning(self, name: str) -> str:
        """Return the newest warning that the cluster has about a Job, empty where it has none."""
        about = f"involvedObject.name={name},type=Warning"
        events, _ = await self._patience.ask(lambda: self._all(f"{self._core}/events", Event, fieldSelector=about))
        told = [(str(event.lastTimestamp or event.eventTime or ""), event.message or "") for event in events]
        return max(told)[1] if told else ""

    async def changes(self, version: str) -> AsyncGenerator[tuple[str, Pod]]:
        """Yield what happens to the run's pods from a version on, and how each is since, until the server ends it.

        Raises what is in TROUBLE.
        """
        asked = {"watch": "true", "allowWatchBookmarks": "true", "labelSelector": self._label}
        asked |= {"resourceVersion": version, "timeoutSeconds": str(WATCH_S)}
        silence = httpx2.Timeout(REQUEST_S, read=WATCH_S + SPARE_S)
        async with self._http.stream("GET", f"{self._core}/pods", params=asked, timeout=silence) as response:
            await _refuse_error(response)
            rest = b""
            async for chunk in response.aiter_bytes():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    happened = msgspec.json.decode(line, type=Happened)
                    if happened.type == "ERROR":
                        raise EventError(msgspec.json.decode(happened.object, type=Status))
                    yield happened.type, msgspec.json.decode(happened.object, type=Pod)

    async def log(self, pod: str, container: str) -> str:
        """Return the newest of what a container printed, on both streams.

        Raises ValueError where it cannot be read, or is gone: with its pod, or since the runtime forgot the container.
        """
        try:
            return await self._patience.ask(lambda: self._log(pod, container), within_s=LOG_S)
        except TROUBLE as error:
            raise ValueError(in_words(error)) from error

    @property
    def _label(self) -> str:
        return f"{RUN}={self._run}"

    async def _may(self, group: str, resource: str, verb: str) -> bool:
        name, _, part = resource.partition("/")
        about = ResourceAttributes(group=group, resource=name, verb=verb, namespace=self.namespace)
        about.subresource = part or None
        review = SelfSubjectAccessReview(spec=SelfSubjectAccessReviewSpec(resourceAttributes=about))
        answer = await self._patience.ask(
            lambda: self._asked("POST", REVIEWS, SelfSubjectAccessReview, body=review), within_s=START_S
        )
        return bool(answer.status and answer.status.allowed)

    async def _asked(self, method: str, path: str, kind: type[T], *, body: Any = None, **asked: str) -> T:
        """Ask once; raises what is in TROUBLE."""
        content = "application/merge-patch+json" if method == "PATCH" else "application/json"
        encoded = None if body is None else msgspec.json.encode(body)
        headers = {"Content-Type": content} if encoded else None
        async with self._turns:
            response = await self._http.request(method, path, params=asked, content=encoded, headers=headers)
        await _refuse_error(response)
        return msgspec.json.decode(response.content, type=kind)

    async def _all(self, path: str, kind: type[T], **asked: str) -> tuple[list[T], str]:
        """Return everything in a collection, page by page, and its version."""
        found: list[T] = []
        page = await self._asked("GET", path, Listed[kind], limit=PAGE, **asked)
        found += page.items or []
        while page.metadata.continue_:
            asked["continue"] = page.metadata.continue_
            page = await self._asked("GET", path, Listed[kind], limit=PAGE, **asked)
            found += page.items or []
        return found, page.metadata.resourceVersion or ""

    async def _log(self, pod: str, container: str) -> str:
        kept = Newest()
        asked = {"container": container}
        async with self._turns, self._http.stream("GET", f"{self._core}/pods/{pod}/log", params=asked) as response:
            await _refuse_error(response)
            async for chunk in response.aiter_bytes():
                kept.add(chunk)
        return kept.text()


def _config(context: str | None) -> SingleConfig:
    if context is None:
        found = KubeConfig.from_env().get()
    else:
        found = KubeConfig.from_file(os.environ.get("KUBECONFIG", DEFAULT_KUBECONFIG)).get(context)
    if found is None or found.user is None:
        raise LightkubeConfigError("its context names no user")
    return found


async def _unless(status: HTTPStatus, asked: Awaitable[T]) -> T | None:
    """Return what was asked for; None where that status is the answer."""
    try:
        return await asked
    except httpx2.HTTPStatusError as error:
        if status_of(error) != status:
            raise
        return None


async def _refuse_error(response: httpx2.Response) -> None:
    if response.is_error:
        await response.aread()
    response.raise_for_status()
