"""The pods of a run as they are now: one list, then one watch for all of them, whatever becomes of the connection.

https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes: a watch goes on from the
version seen last, which bookmarks keep young; where the server has forgotten that one (410 Gone), all are listed again.
What anybody decides on a pod's silence is asked of the cluster, not of this.
"""

import asyncio
import contextlib
from typing import Self

import httpx2
from lightkube.models.core_v1 import Pod

from nexrl_trainer.rollouts.runners.kubernetes.cluster import Cluster
from nexrl_trainer.rollouts.runners.kubernetes.manifests import ATTEMPT
from nexrl_trainer.rollouts.runners.kubernetes.patience import TROUBLE, Patience

AGAIN_S = 0.1
"""Pause between a watch that the server ended and the next."""


class Seen:
    """What has been seen of one Job's pod: of its first, since another is another try."""

    def __init__(self) -> None:
        self.pod: Pod | None = None
        self.deleted = False
        self.replaced = False
        """Its Job has another pod now: a queue took the first away, and has let the Job run again."""
        self._changed = asyncio.Event()

    def note(self, pod: Pod | None, *, deleted: bool = False) -> None:
        """Take note of how it is now, or was when it was deleted; None where nobody knows of it any more."""
        if pod and self.pod and _uid(pod) != _uid(self.pod):
            self.replaced = True
        else:
            self.deleted = deleted or (pod is None and self.pod is not None)
            self.pod = pod or self.pod
        self._changed.set()

    async def change(self, within_s: float) -> bool:
        """Wait for something new; return whether there was."""
        try:
            async with asyncio.timeout(within_s):
                await self._changed.wait()
        except TimeoutError:
            return False
        self._changed.clear()
        return True


class Watch:
    """Follows the pods of the Jobs that somebody asks for; to be opened as an asynchronous context manager."""

    def __init__(self, cluster: Cluster, patience: Patience) -> None:
        self._cluster = cluster
        self._patience = patience
        self._seen: dict[str, Seen] = {}
        self._following: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._following = asyncio.create_task(self._follow())
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._following
        self._following.cancel()
        await asyncio.gather(self._following, return_exceptions=True)

    @contextlib.contextmanager
    def of(self, job: str):  # noqa: ANN201 - a generator of Seen
        """Yield what is seen of this Job's pod, from now on."""
        assert self._following
        if self._following.done():
            self._following.result()
        seen = self._seen[job] = Seen()
        try:
            yield seen
        finally:
            del self._seen[job]

    async def _follow(self) -> None:
        """Keep what is seen true, for ever."""
        failures, version = 0, ""
        while True:
            try:
                version = version or await self._listed()
                async with contextlib.aclosing(self._cluster.changes(version)) as changes:
                    async for kind, pod in changes:
                        failures = 0
                        self._patience.answered()
                        version = self._happened(kind, pod) or version
                await asyncio.sleep(AGAIN_S)
            except (*TROUBLE, ValueError) as error:
                # Whatever it was but a connection that broke: what is known may be wrong.
                if not isinstance(error, httpx2.TransportError):
                    version = ""
                await asyncio.sleep(self._patience.failed(error, failures))
                failures += 1

    async def _listed(self) -> str:
        """See all pods as they are; return the version that they were listed at."""
        before = dict(self._seen)
        pods, version = await self._cluster.pods()
        found = {_job_of(pod): pod for pod in pods}
        # A pod that was made meanwhile may be in the list, and then the watch from its version on does not tell of it.
        for job, seen in self._seen.items():
            if job in found or (seen.pod and job in before):
                seen.note(found.get(job))
        return version

    def _happened(self, kind: str, pod: Pod) -> str | None:
        """See an event; return the version that it brought. A bookmark brings nothing else."""
        if seen := self._seen.get(_job_of(pod)):
            seen.note(pod, deleted=kind == "DELETED")
        return pod.metadata.resourceVersion if pod.metadata else None


def _uid(pod: Pod) -> str | None:
    return pod.metadata.uid if pod.metadata else None


def _job_of(pod: Pod) -> str:
    labels = pod.metadata.labels if pod.metadata else None
    return (labels or {}).get(ATTEMPT, "")
