"""What the runner asks of a cluster: Jobs and Secrets made and deleted, pods seen, logs read. All of it is in here.

How a request is made says `api_server.py`; what the trainer's account must be allowed for them, `permissions.py`.
"""

import contextlib
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Self

import msgspec
from lightkube.models.batch_v1 import Job
from lightkube.models.core_v1 import Event, Pod, Secret
from lightkube.models.meta_v1 import Status
from msgspec import Struct

from nexrl_trainer.rollouts.runners.kubernetes.api_server import ApiServer, unless
from nexrl_trainer.rollouts.runners.kubernetes.manifests import ATTEMPT, RUN
from nexrl_trainer.rollouts.runners.kubernetes.patience import TROUBLE, EventError, Patience, in_words
from nexrl_trainer.rollouts.runners.kubernetes.permissions import check_allowed
from nexrl_trainer.rollouts.runners.process import Newest

LOG_S = 60.0
"""A log that cannot be read for so long is given up: its node may be gone."""
WATCH_S = 60
"""Time after which the server ends a watch."""
SPARE_S = 15
"""Beyond that, before a connection counts as one that leads nowhere."""


class Happened(Struct):
    """A line of a watch."""

    type: str
    object: msgspec.Raw


class Cluster:
    """One namespace of a cluster, and in it what carries a run's label."""

    def __init__(self, server: ApiServer, namespace: str, run: str, patience: Patience) -> None:
        self._server = server
        self.namespace = namespace
        self._label = f"{RUN}={run}"
        self._patience = patience
        self._core, self._batch = f"api/v1/namespaces/{namespace}", f"apis/batch/v1/namespaces/{namespace}"

    @classmethod
    def reached(cls, *, context: str | None, namespace: str | None, run: str, patience: Patience) -> Self:
        """Return the cluster that the context, the service account or the kubeconfig names.

        Raises ConfigError where none of them names one.
        """
        server = ApiServer.reached(context)
        return cls(server, namespace or server.namespace, run, patience)

    async def close(self) -> None:
        """Let go of its connections."""
        await self._server.close()

    async def check(self) -> None:
        """Raise ConfigError where the cluster is out of reach, or forbids what is needed."""
        await check_allowed(self._server, self.namespace, self._patience)

    async def create(self, job: Job, *, within_s: float) -> Job:
        """Make a Job, and return it as it is there.

        Raises ValueError where it is refused, or the server has not managed to within that time; so do those below.
        """
        made = await self._patience.ask(
            lambda: unless(HTTPStatus.CONFLICT, self._server.ask("POST", f"{self._batch}/jobs", Job, body=job)),
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
            lambda: unless(HTTPStatus.CONFLICT, self._server.ask("POST", f"{self._core}/secrets", Secret, body=secret)),
            answered_s=within_s,
        )

    async def begin(self, name: str, *, within_s: float) -> None:
        """Let a suspended Job run."""
        change = {"spec": {"suspend": False}}
        await self._patience.ask(
            lambda: self._server.ask("PATCH", f"{self._batch}/jobs/{name}", Job, body=change), answered_s=within_s
        )

    async def job(self, name: str) -> Job | None:
        """Return a Job; None where there is none."""
        return await self._patience.ask(
            lambda: unless(HTTPStatus.NOT_FOUND, self._server.ask("GET", f"{self._batch}/jobs/{name}", Job))
        )

    async def delete(self, name: str) -> None:
        """Have a Job deleted, and by the cluster's own doing all that it owns; one that is gone is no error."""
        asked = {"propagationPolicy": "Background"}
        await self._patience.ask(
            lambda: unless(
                HTTPStatus.NOT_FOUND, self._server.ask("DELETE", f"{self._batch}/jobs/{name}", msgspec.Raw, **asked)
            )
        )

    async def jobs(self) -> list[str]:
        """Return the names of the run's Jobs."""
        found, _ = await self._patience.ask(
            lambda: self._server.all(f"{self._batch}/jobs", Job, labelSelector=self._label)
        )
        return [job.metadata.name for job in found if job.metadata and job.metadata.name]

    async def pods(self) -> tuple[list[Pod], str]:
        """Return the run's pods, and the version of the collection that a watch goes on from."""
        return await self._patience.ask(lambda: self._server.all(f"{self._core}/pods", Pod, labelSelector=self._label))

    async def pod(self, name: str) -> Pod | None:
        """Return the pod of a Job, as it is now."""
        label = f"{self._label},{ATTEMPT}={name}"
        found, _ = await self._patience.ask(lambda: self._server.all(f"{self._core}/pods", Pod, labelSelector=label))
        return found[0] if found else None

    async def warning(self, name: str) -> str:
        """Return the newest warning that the cluster has about a Job, empty where it has none."""
        about = f"involvedObject.name={name},type=Warning"
        events, _ = await self._patience.ask(
            lambda: self._server.all(f"{self._core}/events", Event, fieldSelector=about)
        )
        told = [(str(event.lastTimestamp or event.eventTime or ""), event.message or "") for event in events]
        return max(told)[1] if told else ""

    async def changes(self, version: str) -> AsyncGenerator[tuple[str, Pod]]:
        """Yield what happens to the run's pods from a version on, and how each is since, until the server ends it.

        Raises what is in TROUBLE.
        """
        asked = {"watch": "true", "allowWatchBookmarks": "true", "labelSelector": self._label}
        asked |= {"resourceVersion": version, "timeoutSeconds": str(WATCH_S)}
        rest = b""
        async with contextlib.aclosing(self._server.stream(f"{self._core}/pods", WATCH_S + SPARE_S, **asked)) as chunks:
            async for chunk in chunks:
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

    async def _log(self, pod: str, container: str) -> str:
        kept = Newest()
        url = f"{self._core}/pods/{pod}/log"
        async with contextlib.aclosing(self._server.chunks(url, container=container)) as chunks:
            async for chunk in chunks:
                kept.add(chunk)
        return kept.text()
